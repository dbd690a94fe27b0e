#include "worker/last_check.h"

#include <algorithm>

#include "sessions/backend_status.h"
#include "sessions/signals.h"
#include "shmem/wait_board.h"

namespace lockguard::pg {

namespace {

/// Does the process wait for that session: is it its own, or a parallel worker of its? The caller
/// holds the partition's lock in whose queue the process stands, so it can't leave its lock group.
bool is_of_session(const PGPROC* waiter, int pid) {
    const PGPROC* leader = waiter->lockGroupLeader;
    return waiter->pid == pid || (leader != nullptr && leader->pid == pid);
}

/// The LOCK that the request waits for; null where it does not wait for it (any more). The caller
/// holds the partition's lock.
///
/// PGPROC.waitLock alone can't be followed: if the process waits in another partition meanwhile,
/// the LOCK behind it may be freed, and made into another, while we read. So we start from the
/// process's list of PROCLOCKs in our partition, which cannot change while we hold the partition's
/// lock, and whose LOCKs are alive. The newest come first: the one that it waits with is usually
/// the first of all. Then waitLock is only compared. It becomes equal to a LOCK of this partition,
/// and ceases to be, under this partition's lock held exclusive, and waitLockMode with it; so where
/// they are equal, they stay so, and the process, standing in the queue, can't exit: its pid is
/// firm too.
LOCK* find_awaited_lock(const RequestIdentity& request, int partition) {
    Assert(LWLockHeldByMe(LockHashPartitionLockByIndex(partition)));
    PGPROC* waiter = GetPGProcByNumber(request.procno);
    for (PROCLOCK* proclock = compat::newest_own_proclock(waiter, partition); proclock != nullptr;
         proclock = compat::older_own_proclock(waiter, partition, proclock)) {
        LOCK* lock = proclock->tag.myLock;
        if (memcmp(&lock->tag, &request.tag, sizeof(LOCKTAG)) != 0)
            continue;
        bool waits = waiter->waitLock == lock && waiter->waitLockMode == request.mode &&
                     is_of_session(waiter, request.pid);
        return waits ? lock : nullptr;
    }
    return nullptr;
}

/// Does the process itself hold a mode that conflicts with the wanted one? The caller holds the
/// partition's lock. What members of its lock group hold does not count: parallel workers live no
/// longer than a statement, and the session is idle.
bool holds_conflicting_mode(LOCK* lock, const PGPROC* proc, LOCKMODE wanted) {
    Assert(LWLockHeldByMe(LockHashPartitionLock(LockTagHashCode(&lock->tag))));
    LOCKMASK conflicts = GetLockTagsMethodTable(&lock->tag)->conflictTab[wanted];
    for (PROCLOCK* proclock = compat::first_proclock(lock); proclock != nullptr;
         proclock = compat::next_proclock(lock, proclock)) {
        if (proclock->tag.myProc == proc)
            return (proclock->holdMask & conflicts) != 0;
    }
    return false;
}

/// Does anybody of the process's lock group hold such a mode? The caller holds the partition's
/// lock.
bool group_holds_conflicting_mode(LOCK* lock, const PGPROC* leader, LOCKMODE wanted) {
    Assert(LWLockHeldByMe(LockHashPartitionLock(LockTagHashCode(&lock->tag))));
    LOCKMASK conflicts = GetLockTagsMethodTable(&lock->tag)->conflictTab[wanted];
    for (PROCLOCK* proclock = compat::first_proclock(lock); proclock != nullptr;
         proclock = compat::next_proclock(lock, proclock)) {
        if (proclock->groupLeader == leader && (proclock->holdMask & conflicts) != 0)
            return true;
    }
    return false;
}

/// Does the process itself hold such a mode of a lock that nobody need wait for? The caller holds
/// its fpInfoLock. Takes the partition's lock.
bool holds_conflicting_mode(PGPROC* proc, const LOCKTAG& tag, LOCKMODE wanted) {
    Assert(LWLockHeldByMe(&proc->fpInfoLock));
    LOCKMASK conflicts = GetLockTagsMethodTable(&tag)->conflictTab[wanted];
    if (tag.locktag_type == LOCKTAG_RELATION && tag.locktag_field1 == proc->databaseId &&
        (compat::fast_path_modes(proc, tag.locktag_field2) & conflicts) != 0)
        return true;
    uint32 hash = LockTagHashCode(&tag);
    auto partition = static_cast<int>(LockHashPartition(hash));
    bool holds = false;
    LWLockAcquire(LockHashPartitionLock(hash), LW_SHARED);
    for (PROCLOCK* proclock = compat::newest_own_proclock(proc, partition);
         proclock != nullptr && !holds;
         proclock = compat::older_own_proclock(proc, partition, proclock))
        holds = memcmp(&proclock->tag.myLock->tag, &tag, sizeof(LOCKTAG)) == 0 &&
                (proclock->holdMask & conflicts) != 0;
    LWLockRelease(LockHashPartitionLock(hash));
    return holds;
}

/// Does the request, which stands in no queue, still wait for that lock?
bool still_waits_at_low_priority(const RequestIdentity& request) {
    LowPriorityWait wait;
    return read_low_priority_wait(request.procno, &wait) && wait.pid == request.pid &&
           memcmp(&wait.tag, &request.tag, sizeof(LOCKTAG)) == 0 && wait.mode == request.mode;
}

/// Is the session in the very state in which it was judged?
bool is_still_idle(const BlockerIdentity& blocker) {
    BackendStateOnly state;
    if (!read_backend_state(blocker.session, &state) || state.state_start != blocker.state_start)
        return false;
    if (!blocker.stalled)
        return is_idle_in_transaction(state.state);
    return state.state == STATE_RUNNING && state.change_count == blocker.change_count &&
           reads_from_client(blocker.session.procno);
}

/// The last thing to ask: has it been idle all the time?
TerminationResult check_state(const BlockerIdentity& blocker) {
    return is_still_idle(blocker) ? TerminationResult::signaled : TerminationResult::no_longer_idle;
}

/// Is the session still the one that was judged, and does it still block the request? The caller
/// holds the partition's lock.
///
/// That is what makes the session and its transaction certain. To end its transaction and begin
/// another, or to exit, a process must first release its locks, and to release this one it needs
/// the partition's lock exclusive. So once its PROCLOCK has been seen, the PGPROC is the session's
/// until we let go, its pid is in nobody else's hands, and the only transaction that lxid can speak
/// of is the one that holds the lock (or none: lxid is cleared before the locks are released). The
/// state is read last. A message that arrives after that makes the session active, but its
/// transaction is still the one that was judged: the message is not obeyed, or, where a COMMIT has
/// come past its last interrupt check, the session ends after it, with the commit acknowledged.
TerminationResult check(const BlockerIdentity& blocker, const RequestIdentity& request,
                        int partition) {
    LOCK* lock = find_awaited_lock(request, partition);
    if (lock == nullptr)
        return TerminationResult::request_gone;

    const PGPROC* victim = GetPGProcByNumber(blocker.session.procno);
    if (!holds_conflicting_mode(lock, victim, request.mode))
        return TerminationResult::lock_released;
    if (session_of(victim) != blocker.session)
        return TerminationResult::other_transaction;

    return check_state(blocker);
}

/// As check(), for a request at low priority. The caller holds the victim's fpInfoLock, and has
/// seen the victim's transaction hold the lock after the state was judged.
///
/// That lock keeps the process in its transaction (see is_in_transaction()). It was idle when
/// it was judged and has been idle since, by its state: so it still holds what it held in between.
/// A process gives a lock back before the end of its transaction only at a command, such as
/// ROLLBACK TO SAVEPOINT.
TerminationResult check_low_priority(const BlockerIdentity& blocker,
                                     const RequestIdentity& request) {
    if (!still_waits_at_low_priority(request))
        return TerminationResult::request_gone;
    if (!is_in_transaction(blocker.session))
        return TerminationResult::other_transaction;
    return check_state(blocker);
}

/// Is it seen among those that hold a conflicting mode?
bool is_among_holders(const BlockerIdentity& blocker, const RequestIdentity& request) {
    int count;
    const VirtualTransactionId* vxids = GetLockConflicts(&request.tag, request.mode, &count);
    return std::any_of(vxids, vxids + count, [&blocker](VirtualTransactionId vxid) {
        SessionId holder;
        return find_session(vxid, &holder) && holder == blocker.session;
    });
}

/// Does the client still wait? Looks without the locks of its wait, which can be for anything: it
/// may go on while we end the session for it, as it may a moment after.
bool client_still_waits(const RequestIdentity& request) {
    const PGPROC* proc = GetPGProcByNumber(request.client_procno);
    const PGPROC* leader = *const_cast<PGPROC* const volatile*>(&proc->lockGroupLeader);
    if ((leader == nullptr ? proc : leader)->pid != request.client_pid)
        return false;
    LowPriorityWait wait;
    return *const_cast<LOCK* const volatile*>(&proc->waitLock) != nullptr ||
           (read_low_priority_wait(request.client_procno, &wait) && wait.pid == request.client_pid);
}

/// Checks, and signals where there is a detail to leave.
TerminationResult check_and_signal(const BlockerIdentity& blocker, const RequestIdentity& request,
                                   const char* detail) {
    // A prepared transaction has no process to end, and kill(0) would end the whole server.
    if (blocker.session.pid <= 0 || request.pid <= 0 ||
        blocker.session.lxid == InvalidLocalTransactionId)
        return TerminationResult::other_transaction;

    if (request.client_pid != 0 && !client_still_waits(request))
        return TerminationResult::no_client_waits;
    if (request.low_priority && !is_among_holders(blocker, request))
        return TerminationResult::lock_released;
    uint32 hash = LockTagHashCode(&request.tag);
    LWLock* guarding_lock = request.low_priority
                                ? &GetPGProcByNumber(blocker.session.procno)->fpInfoLock
                                : LockHashPartitionLock(hash);
    LWLockAcquire(guarding_lock, LW_SHARED);
    TerminationResult result =
        request.low_priority ? check_low_priority(blocker, request)
                             : check(blocker, request, static_cast<int>(LockHashPartition(hash)));
    if (result == TerminationResult::signaled && detail != nullptr)
        result = leave_word_and_terminate(blocker.session, detail)
                     ? TerminationResult::signaled
                     : TerminationResult::signal_failed;
    LWLockRelease(guarding_lock);
    return result;
}

} // namespace

TerminationResult terminate_blocker(const BlockerIdentity& blocker, const RequestIdentity& request,
                                    const char* detail) {
    return check_and_signal(blocker, request, detail);
}

TerminationResult rehearse_termination(const BlockerIdentity& blocker,
                                       const RequestIdentity& request) {
    return check_and_signal(blocker, request, nullptr);
}

TerminationResult check_blocks(const BlockerIdentity& blocker, const RequestIdentity& request) {
    if (request.client_pid != 0 && !client_still_waits(request))
        return TerminationResult::no_client_waits;
    PGPROC* victim = GetPGProcByNumber(blocker.session.procno);
    if (request.low_priority) {
        if (!still_waits_at_low_priority(request))
            return TerminationResult::request_gone;
        return holds_conflicting_mode(victim, request.tag, request.mode)
                   ? TerminationResult::signaled
                   : TerminationResult::lock_released;
    }
    uint32 hash = LockTagHashCode(&request.tag);
    LWLockAcquire(LockHashPartitionLock(hash), LW_SHARED);
    LOCK* lock = find_awaited_lock(request, static_cast<int>(LockHashPartition(hash)));
    TerminationResult result = TerminationResult::signaled;
    if (lock == nullptr)
        result = TerminationResult::request_gone;
    else if (!group_holds_conflicting_mode(lock, victim, request.mode))
        result = TerminationResult::lock_released;
    LWLockRelease(LockHashPartitionLock(hash));
    return result;
}

TerminationResult blocks(const BlockerIdentity& blocker, const RequestIdentity& request) {
    PGPROC* proc = GetPGProcByNumber(blocker.session.procno);
    LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
    TerminationResult result = is_in_transaction(blocker.session)
                                   ? check_blocks(blocker, request)
                                   : TerminationResult::other_transaction;
    LWLockRelease(&proc->fpInfoLock);
    return result;
}

Outcome outcome_of(const BlockerIdentity& blocker, RequestIdentity request) {
    request.client_pid = 0; // who waits behind it may come and go
    TerminationResult result = rehearse_termination(blocker, request);
    if (result == TerminationResult::signaled)
        return Outcome::still_blocks;
    // A transaction that ends gives its locks back last, and then the request is gone, too: so the
    // order is from the transaction to the lock.
    const PGPROC* proc = GetPGProcByNumber(blocker.session.procno);
    if (session_of(proc) != blocker.session)
        return Outcome::transaction_over;
    if (!is_still_idle(blocker))
        return Outcome::went_on;
    return result == TerminationResult::request_gone ? Outcome::request_gone
                                                     : Outcome::lock_released;
}

const char* termination_result_text(TerminationResult result) {
    switch (result) {
    case TerminationResult::signaled:
        return "it has been sent SIGTERM";
    case TerminationResult::request_gone:
        return "the request that it blocked no longer waits";
    case TerminationResult::lock_released:
        return "it no longer holds the lock";
    case TerminationResult::other_transaction:
        return "it is no longer in the transaction that was judged";
    case TerminationResult::no_longer_idle:
        return "it has been active since it was judged";
    case TerminationResult::no_client_waits:
        return "the client that waited behind the request that it blocked no longer does";
    case TerminationResult::signal_failed:
        return "the operating system did not deliver SIGTERM";
    }
    return "";
}

} // namespace lockguard::pg
