#include "locks/unqueued_waits.h"

#include <algorithm>

extern "C" {
#include "storage/predicate_internals.h"
}

namespace lockguard::pg {

namespace {

/// Copies what is known of a process that may end meanwhile; pid says which session was meant.
CopiedSession copy_lone_session(const PGPROC* proc, int pid) {
    CopiedSession session = copy_session(proc, proc);
    session.id.pid = pid;
    return session;
}

/// The blockers of one that waits for a safe snapshot. Returns whether there are any.
///
/// \param pids  work space, for MaxBackends of them
bool copy_safe_snapshot_blockers(int pid, int* pids, SafeSnapshotWaits* waits) {
    bool any = false;
    int count = GetSafeSnapshotBlockingPids(pid, pids, MaxBackends);
    for (int i = 0; i < count; i++) {
        SafeSnapshotWaits::Pair pair = {waits->waiters.size(), {{-1, 0}, InvalidTransactionId}};
        if (pids[i] != 0) {
            const PGPROC* blocker = BackendPidGetProc(pids[i]);
            if (blocker == nullptr)
                continue; // it has ended, and does not block any more
            pair.blocker = copy_lone_session(blocker, pids[i]);
        }
        waits->pairs.add(pair);
        any = true;
    }
    return any;
}

bool is_outside_of_queue(WaitPhase phase) {
    return phase != WaitPhase::queued && phase != WaitPhase::running;
}

bool is_same_request(const LowPriorityWait& wait, const LOCKTAG& tag, LOCKMODE mode) {
    return wait.lock_known && wait.mode == mode && memcmp(&wait.tag, &tag, sizeof(LOCKTAG)) == 0;
}

/// Who holds what it waits for; many wait for the same, so those found before are looked at first.
std::span<const LockHolder> holders_for(const LowPriorityWait& wait,
                                        const LowPriorityWaiters& found) {
    for (std::size_t i = found.waiters.size(); i-- > 0;) {
        if (is_same_request(found.waiters[i].wait, wait.tag, wait.mode))
            return found.waiters[i].holders;
    }
    return find_lock_holders(wait.tag, wait.mode, -1);
}

} // namespace

void copy_safe_snapshot_waits(SafeSnapshotWaits* waits) {
    *waits = {};
    int* pids = new_array<int>(static_cast<std::size_t>(MaxBackends));
    for (uint32 i = 0; i < ProcGlobal->allProcCount; i++) {
        const PGPROC* proc = GetPGProcByNumber(i);
        int pid = proc->pid;
        // Without a blocker it has just got its snapshot.
        if (pid != 0 && waits_for_safe_snapshot(proc) &&
            copy_safe_snapshot_blockers(pid, pids, waits))
            waits->waiters.add(copy_lone_session(proc, pid));
    }
}

bool LowPriorityWaiters::contains(int procno) const {
    return std::any_of(waiters.begin(), waiters.end(), [procno](const LowPriorityWaiter& waiter) {
        return waiter.session.id.procno == procno;
    });
}

void copy_low_priority_waits(LowPriorityWaiters* found) {
    *found = {};
    LowPriorityWait wait;
    for (int i = 0; i < MaxBackends; i++) {
        if (!read_low_priority_wait(i, &wait) || !wait.lock_known ||
            !is_outside_of_queue(wait.phase))
            continue;
        CopiedSession session = copy_lone_session(GetPGProcByNumber(i), wait.pid);
        std::span<const LockHolder> holders = holders_for(wait, *found);
        bool is_blocked =
            std::any_of(holders.begin(), holders.end(), [&session](const LockHolder& holder) {
                return holder.session.procno != session.id.procno;
            });
        if (!is_blocked)
            continue;
        found->waiters.add({session, wait, holders});
        found->holder_count += holders.size();
    }
}

bool anybody_waits_at_low_priority() {
    LowPriorityWait wait;
    for (int i = 0; i < MaxBackends; i++) {
        if (read_low_priority_wait(i, &wait) && wait.lock_known && is_outside_of_queue(wait.phase))
            return true;
    }
    return false;
}

TimestampTz start_of(const LowPriorityWait& wait) {
    return wait.lock_since != 0 ? wait.lock_since : wait.started_at;
}

bool takes_locks_for_a_moment(WaitPhase phase) {
    return phase == WaitPhase::trying || phase == WaitPhase::terminating;
}

TimestampTz start_in_queue(const CopiedWaiter& waiter, const LOCKTAG& tag, TimestampTz queued) {
    LowPriorityWait wait;
    if (read_low_priority_wait(waiter.procno, &wait) && is_same_request(wait, tag, waiter.wanted))
        return std::min(start_of(wait), queued);
    return queued;
}

} // namespace lockguard::pg
