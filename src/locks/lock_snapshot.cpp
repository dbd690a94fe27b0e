#include "locks/lock_snapshot.h"

#include <algorithm>

#include "locks/lock_holders.h"
#include "shmem/wait_board.h"

extern "C" {
#include "storage/predicate_internals.h"
}

namespace lockguard::pg {

namespace {

/// What is copied of a process (or of its lock group's leader) while the partition locks are held:
/// only what must be of that very instant. A PGPROC is many cache lines long, and each one read
/// adds to the time that the locks are held.
struct RawSession {
    int procno;
    int pid;
    LocalTransactionId lxid;
    TransactionId xid; // of a prepared transaction
};

struct RawHolder {
    RawSession session;
    LOCKMASK held;
};

struct RawWaiter {
    RawSession session;
    int procno; // of the waiting process itself
    LOCKMODE wanted;
    TimestampTz wait_start;
};

struct RawLock {
    LOCKTAG tag;
    int first_holder;
    int holder_count;
    int first_waiter;
    int waiter_count;
};

/// An array of fixed room that goes on counting when it is full, so that the next attempt knows how
/// much room it needs.
template <class Element>
struct Room {
    Element* elements;
    int capacity;
    int count;

    void reserve(int wanted) {
        elements = static_cast<Element*>(palloc_array_huge(wanted));
        capacity = wanted;
        count = 0;
    }
    void release() {
        if (elements != nullptr)
            pfree(elements);
        elements = nullptr;
    }
    /// The next free place, or null where there is none; counts in both cases.
    Element* next() {
        Element* place = count < capacity ? &elements[count] : nullptr;
        count++;
        return place;
    }
    bool overflowed() const { return count > capacity; }

  private:
    static void* palloc_array_huge(int wanted) {
        // Zeroed, so that its pages are there before any lock is held.
        return MemoryContextAllocExtended(CurrentMemoryContext,
                                          sizeof(Element) * static_cast<Size>(wanted),
                                          MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
    }
};

struct RawCopy {
    Room<RawLock> locks;
    Room<RawHolder> holders;
    Room<RawWaiter> waiters;

    void release() {
        locks.release();
        holders.release();
        waiters.release();
    }
};

/// How many processes wait for a heavyweight lock and for a safe snapshot, looked at without a
/// lock.
struct WaitCounts {
    int heavyweight;
    int safe_snapshot;
};

bool waits_for_safe_snapshot(const PGPROC* proc) {
    return *const_cast<volatile const uint32*>(&proc->wait_event_info) == WAIT_EVENT_SAFE_SNAPSHOT;
}

/// Asks the processor to load memory, without waiting for it and without reading it.
void prefetch(const void* from, Size size) {
    for (Size offset = 0; offset < size; offset += PG_CACHE_LINE_SIZE / 2)
        __builtin_prefetch(static_cast<const char*>(from) + offset);
}

/// On the way it has the processor load what copy_lock_table() is going to read. That takes a
/// little longer on the whole, but the locks are held for about a third less (200 waiters,
/// measured).
WaitCounts count_waits() {
    constexpr uint32 ahead = 8;
    LOCK* recent[ahead] = {};
    WaitCounts counts = {0, 0};
    for (uint32 i = 0; i < ProcGlobal->allProcCount; i++) {
        if (i + ahead < ProcGlobal->allProcCount) {
            const PGPROC* later = GetPGProcByNumber(i + ahead);
            __builtin_prefetch(&later->waitLock);
            __builtin_prefetch(&later->wait_event_info);
        }
        const PGPROC* proc = GetPGProcByNumber(i);
        LOCK* lock = *const_cast<LOCK* const volatile*>(&proc->waitLock);
        if (lock != nullptr) {
            // The lock before the last few has come by now, and says where its first holder is. It
            // may be gone, and that address mean nothing: it is not read.
            LOCK*& earlier = recent[counts.heavyweight % static_cast<int>(ahead)];
            if (earlier != nullptr)
                prefetch(compat::first_proclock(earlier), sizeof(PROCLOCK));
            earlier = lock;
            counts.heavyweight++;
            prefetch(lock, offsetof(LOCK, requested));
            prefetch(*const_cast<PROCLOCK* const volatile*>(&proc->waitProcLock), sizeof(PROCLOCK));
            prefetch(proc, offsetof(PGPROC, waitLock));
        } else if (waits_for_safe_snapshot(proc)) {
            counts.safe_snapshot++;
        }
    }
    return counts;
}

/// The process that stands for another in the graph: its lock group's leader. A leader that has
/// ended before its workers has no pid any more; its member's own says more than 0.
void copy_session(const PGPROC* leader, const PGPROC* member, RawSession* session) {
    const PGPROC* proc = leader->pid == 0 && member->pid != 0 ? member : leader;
    session->procno = compat::procno_of(leader);
    session->pid = proc->pid;
    session->lxid = compat::lxid_of(proc);
    session->xid = proc->pid == 0 ? proc->xid : InvalidTransactionId;
}

/// Copies one lock with its queue. The caller holds its partition lock.
void copy_lock(LOCK* lock, RawCopy* copy) {
    int first_holder = copy->holders.count;
    for (PROCLOCK* proclock = compat::first_proclock(lock); proclock != nullptr;
         proclock = compat::next_proclock(lock, proclock)) {
        if (proclock->holdMask == 0)
            continue; // it only waits
        if (RawHolder* holder = copy->holders.next()) {
            const PGPROC* proc = proclock->tag.myProc;
            copy_session(proclock->groupLeader, proc, &holder->session);
            holder->held = proclock->holdMask;
        }
    }

    int first_waiter = copy->waiters.count;
    for (PGPROC* proc = compat::first_waiter(lock); proc != nullptr;
         proc = compat::next_waiter(lock, proc)) {
        if (RawWaiter* waiter = copy->waiters.next()) {
            copy_session(proc->waitProcLock->groupLeader, proc, &waiter->session);
            waiter->procno = compat::procno_of(proc);
            waiter->wanted = proc->waitLockMode;
            waiter->wait_start = static_cast<TimestampTz>(pg_atomic_read_u64(&proc->waitStart));
        }
    }

    if (RawLock* raw = copy->locks.next()) {
        raw->tag = lock->tag;
        raw->first_holder = first_holder;
        raw->holder_count = copy->holders.count - first_holder;
        raw->first_waiter = first_waiter;
        raw->waiter_count = copy->waiters.count - first_waiter;
    }
}

/// Copies every lock that somebody waits for, all in one instant, as long as there is room. Returns
/// how long the locks were held, in nanoseconds.
///
/// waitLock, lock groups, PROCLOCK lists and queues change only under the partition lock held
/// exclusively: with all of them held shared, everything that is read here stands still. (Fast-path
/// locks need no look: whoever waits for a strong lock has moved them to the main table.) A lock is
/// copied when its process is the head of its queue, hence each one once.
uint64 copy_lock_table(RawCopy* copy) {
    instr_time start;
    instr_time end;
    for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
        LWLockAcquire(LockHashPartitionLockByIndex(i), LW_SHARED);
    INSTR_TIME_SET_CURRENT(start);

    for (uint32 i = 0; i < ProcGlobal->allProcCount; i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        LOCK* lock = proc->waitLock;
        if (lock != nullptr && compat::first_waiter(lock) == proc)
            copy_lock(lock, copy);
    }

    for (int i = NUM_LOCK_PARTITIONS; --i >= 0;)
        LWLockRelease(LockHashPartitionLockByIndex(i));
    INSTR_TIME_SET_CURRENT(end);
    INSTR_TIME_SUBTRACT(end, start);
    return compat::nanoseconds(end);
}

/// Repeats the copy with more room until everything fits.
uint64 copy_all_locks(int expected_waiters, RawCopy* copy) {
    copy->locks.reserve(expected_waiters + 16);
    copy->waiters.reserve(expected_waiters + 16);
    copy->holders.reserve(2 * expected_waiters + 64);
    for (;;) {
        copy->locks.count = copy->holders.count = copy->waiters.count = 0;
        uint64 held = copy_lock_table(copy);
        bool fits = true;
        auto make_room = [&fits](auto& room) {
            if (!room.overflowed())
                return;
            fits = false;
            int wanted = room.count + room.count / 4;
            room.release();
            room.reserve(wanted);
        };
        make_room(copy->locks);
        make_room(copy->holders);
        make_room(copy->waiters);
        if (fits)
            return held;
        CHECK_FOR_INTERRUPTS();
    }
}

/// Gives the processes of the raw copy their places in the graph.
class SessionTable {
  public:
    SessionTable(LockSnapshot* snapshot, int capacity) : snapshot_(snapshot) {
        // Indexed by procno; one more place for a prepared transaction that has none (see below).
        index_ = static_cast<int*>(palloc(sizeof(int) * (compat::count_of_procs() + 1)));
        for (int i = 0; i <= compat::count_of_procs(); i++)
            index_[i] = -1;
        snapshot->sessions = static_cast<SnapshotSession*>(MemoryContextAllocHuge(
            CurrentMemoryContext, sizeof(SnapshotSession) * static_cast<Size>(capacity)));
        snapshot->core_sessions = static_cast<core::Session*>(MemoryContextAllocHuge(
            CurrentMemoryContext, sizeof(core::Session) * static_cast<Size>(capacity)));
    }

    core::SessionIndex place(const RawSession& raw) {
        int slot = raw.procno < 0 ? compat::count_of_procs() : raw.procno;
        if (index_[slot] < 0) {
            index_[slot] = count_;
            // Unlocked. Database and role stay the same as long as the session lives, and the wait
            // event is of this moment, as in pg_stat_activity.
            const PGPROC* proc = raw.procno < 0 ? nullptr : GetPGProcByNumber(raw.procno);
            snapshot_->sessions[count_] = {raw.procno,
                                           raw.pid,
                                           raw.lxid,
                                           raw.xid,
                                           proc == nullptr ? InvalidOid : proc->databaseId,
                                           proc == nullptr ? InvalidOid : proc->roleId,
                                           proc == nullptr ? 0 : proc->wait_event_info,
                                           -1};
            snapshot_->core_sessions[count_] = {raw.pid, core::kUnknownTime};
            count_++;
        }
        return static_cast<core::SessionIndex>(index_[slot]);
    }

    int count() const { return count_; }

  private:
    LockSnapshot* snapshot_;
    int* index_;
    int count_ = 0;
};

/// The waits for safe snapshots: the transactions that each of them waits for.
struct SafeSnapshotWaits {
    struct Pair {
        int waiter; // index into waiters
        RawSession blocker;
    };

    RawSession* waiters;
    int waiter_count;
    Pair* pairs;
    int pair_count;
};

/// Copies what is known of a process that may end meanwhile; pid says which session was meant.
void copy_lone_session(PGPROC* proc, int pid, RawSession* session) {
    copy_session(proc, proc, session);
    session->pid = pid;
}

/// predicate.c knows who waits and for whom, under a lock of its own; it is asked after the
/// partition locks are released. A transaction that was prepared meanwhile has pid 0 and no way to
/// say which it was.
void copy_safe_snapshot_waits(int expected, SafeSnapshotWaits* waits) {
    *waits = {};
    if (expected == 0)
        return;
    int* pids = static_cast<int*>(palloc(sizeof(int) * MaxBackends));
    waits->waiters = static_cast<RawSession*>(palloc(sizeof(RawSession) * MaxBackends));
    int pair_capacity = 0;
    for (uint32 i = 0; i < ProcGlobal->allProcCount && waits->waiter_count < MaxBackends; i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        int pid = proc->pid;
        if (pid == 0 || !waits_for_safe_snapshot(proc))
            continue;
        int count = GetSafeSnapshotBlockingPids(pid, pids, MaxBackends);
        if (count == 0)
            continue; // it has just got its snapshot
        if (waits->pair_count + count > pair_capacity) {
            pair_capacity = 2 * (waits->pair_count + count);
            Size size = sizeof(*waits->pairs) * static_cast<Size>(pair_capacity);
            waits->pairs = static_cast<SafeSnapshotWaits::Pair*>(
                waits->pairs == nullptr ? palloc(size) : repalloc(waits->pairs, size));
        }
        int first_pair = waits->pair_count;
        for (int j = 0; j < count; j++) {
            SafeSnapshotWaits::Pair* pair = &waits->pairs[waits->pair_count];
            pair->waiter = waits->waiter_count;
            if (pids[j] == 0) {
                pair->blocker = {};
                pair->blocker.procno = -1;
            } else {
                PGPROC* blocker = BackendPidGetProc(pids[j]);
                if (blocker == nullptr)
                    continue; // it has ended, and does not block any more
                copy_lone_session(blocker, pids[j], &pair->blocker);
            }
            waits->pair_count++;
        }
        if (waits->pair_count > first_pair)
            copy_lone_session(proc, pid, &waits->waiters[waits->waiter_count++]);
    }
}

/// A wait outside of the queue, and who holds what it is after.
struct LowPriorityWaiter {
    RawSession session;
    LowPriorityWait wait;
    std::span<const LockHolder> holders; // perhaps the session itself among them
};

struct LowPriorityWaiters {
    LowPriorityWaiter* waiters;
    int count;
    int holder_count; // of all of them
};

bool is_outside_of_queue(WaitPhase phase) {
    return phase != WaitPhase::queued && phase != WaitPhase::running;
}

bool anybody_waits_at_low_priority() {
    LowPriorityWait wait;
    for (int i = 0; i < MaxBackends; i++) {
        if (read_low_priority_wait(i, &wait) && wait.lock_known && is_outside_of_queue(wait.phase))
            return true;
    }
    return false;
}

/// Is it a sleep on somebody's transaction?
bool is_sleep(const LOCKTAG& tag) {
    return tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION ||
           tag.locktag_type == LOCKTAG_TRANSACTION;
}

/// May such a session hold locks at this moment that it gives back at once, because it can't have
/// all of them?
bool takes_locks_for_a_moment(WaitPhase phase) {
    return phase == WaitPhase::trying || phase == WaitPhase::terminating;
}

/// Who holds what it waits for; many wait for the same, so those found before are looked at first.
std::span<const LockHolder> holders_for(const LowPriorityWait& wait,
                                        const LowPriorityWaiters& found) {
    for (int i = found.count; --i >= 0;) {
        const LowPriorityWait& other = found.waiters[i].wait;
        if (other.mode == wait.mode && memcmp(&other.tag, &wait.tag, sizeof(LOCKTAG)) == 0)
            return found.waiters[i].holders;
    }
    return find_lock_holders(wait.tag, wait.mode, -1);
}

/// Asked for after the partition locks are released. One for whose lock nobody is found stays as it
/// is in the copy.
void copy_low_priority_waits(LowPriorityWaiters* found) {
    *found = {};
    LowPriorityWait wait;
    for (int i = 0; i < MaxBackends; i++) {
        if (!read_low_priority_wait(i, &wait) || !wait.lock_known ||
            !is_outside_of_queue(wait.phase))
            continue;
        if (found->waiters == nullptr)
            found->waiters = static_cast<LowPriorityWaiter*>(
                palloc(sizeof(LowPriorityWaiter) * static_cast<Size>(MaxBackends)));
        RawSession session;
        copy_lone_session(GetPGProcByNumber(i), wait.pid, &session);
        std::span<const LockHolder> holders = holders_for(wait, *found);
        bool is_blocked =
            std::any_of(holders.begin(), holders.end(), [&session](const LockHolder& holder) {
                return holder.procno != session.procno;
            });
        if (!is_blocked)
            continue;
        found->waiters[found->count++] = {session, wait, holders};
        found->holder_count += static_cast<int>(holders.size());
    }
}

bool waits_at_low_priority(const LowPriorityWaiters& waiters, int procno) {
    return std::any_of(
        waiters.waiters, waiters.waiters + waiters.count,
        [procno](const LowPriorityWaiter& waiter) { return waiter.session.procno == procno; });
}

/// Since when it waits for its lock.
TimestampTz start_of(const LowPriorityWait& wait) {
    return wait.lock_since != 0 ? wait.lock_since : wait.started_at;
}

/// Since when a process in a queue waits for that lock: one at low priority that stands there for a
/// moment has waited for it before.
TimestampTz start_in_queue(const RawWaiter& waiter, const LOCKTAG& tag, TimestampTz queued) {
    LowPriorityWait wait;
    if (read_low_priority_wait(waiter.procno, &wait) && wait.lock_known &&
        wait.mode == waiter.wanted && memcmp(&wait.tag, &tag, sizeof(LOCKTAG)) == 0)
        return std::min(start_of(wait), queued);
    return queued;
}

/// Enters a wait, and makes it its session's own where that has none that began earlier. Returns
/// its index.
uint32 add_wait(LockSnapshot* snapshot, const SnapshotWait& wait) {
    SnapshotSession* session = &snapshot->sessions[wait.session];
    int index = snapshot->wait_count++;
    snapshot->waits[index] = wait;
    if (session->first_wait < 0 ||
        wait.wait_start < snapshot->waits[session->first_wait].wait_start)
        session->first_wait = index;
    return static_cast<uint32>(index);
}

/// Turns the raw copy into the core's plain tables.
void build_tables(const RawCopy& copy, const SafeSnapshotWaits& safe,
                  const LowPriorityWaiters& low_priority, LockSnapshot* snapshot) {
    SessionTable sessions(snapshot, copy.holders.count + copy.waiters.count + safe.waiter_count +
                                        safe.pair_count + low_priority.count +
                                        low_priority.holder_count);
    auto* locks = static_cast<core::Lock*>(palloc(sizeof(core::Lock) * copy.locks.count));
    auto* holders = static_cast<core::Holder*>(
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(core::Holder) * copy.holders.count));
    auto* waiters = static_cast<core::Waiter*>(palloc(sizeof(core::Waiter) * copy.waiters.count));
    auto* direct = static_cast<core::DirectWait*>(palloc(
        sizeof(core::DirectWait) * static_cast<Size>(safe.pair_count + low_priority.holder_count)));
    snapshot->waits = static_cast<SnapshotWait*>(
        palloc(sizeof(SnapshotWait) *
               static_cast<Size>(copy.waiters.count + safe.waiter_count + low_priority.count)));

    // A wait may be so young that its start is not published yet: then it starts now.
    TimestampTz now = GetCurrentTimestamp();
    for (int i = 0; i < copy.locks.count; i++) {
        const RawLock& raw = copy.locks.elements[i];
        locks[i] = {
            static_cast<uint32>(raw.first_holder),         static_cast<uint32>(raw.holder_count),
            static_cast<uint32>(raw.first_waiter),         static_cast<uint32>(raw.waiter_count),
            GetLockTagsMethodTable(&raw.tag)->conflictTab, wait_kind_of(raw.tag)};
        for (int j = raw.first_waiter; j < raw.first_waiter + raw.waiter_count; j++) {
            const RawWaiter& waiter = copy.waiters.elements[j];
            auto mode = static_cast<core::LockMode>(waiter.wanted);
            if (is_sleep(raw.tag) && waits_at_low_priority(low_priority, waiter.procno)) {
                waiters[j] = {sessions.place(waiter.session), core::kNoLockMode}; // see below
                continue;
            }
            core::SessionIndex session = sessions.place(waiter.session);
            TimestampTz start = waiter.wait_start == 0 ? now : waiter.wait_start;
            uint32 wait = add_wait(
                snapshot, {session, waiter.procno, raw.tag, mode, start, false, false, true});
            waiters[j] = {session, mode, wait, start_in_queue(waiter, raw.tag, start)};
        }
    }
    for (int i = 0; i < copy.holders.count; i++) {
        const RawHolder& holder = copy.holders.elements[i];
        holders[i] = {sessions.place(holder.session), static_cast<core::ModeMask>(holder.held)};
    }
    uint32 first_safe = static_cast<uint32>(snapshot->wait_count);
    for (int i = 0; i < safe.waiter_count; i++) {
        const RawSession& waiter = safe.waiters[i];
        add_wait(
            snapshot,
            {sessions.place(waiter), waiter.procno, {}, core::kNoLockMode, 0, true, false, true});
    }
    for (int i = 0; i < safe.pair_count; i++) {
        // It is not known since when: it did not begin to wait later than anybody else.
        direct[i] = {sessions.place(safe.waiters[safe.pairs[i].waiter]),
                     sessions.place(safe.pairs[i].blocker),
                     core::kNoLockMode,
                     core::WaitKind::arranged,
                     first_safe + static_cast<uint32>(safe.pairs[i].waiter),
                     0};
    }
    int direct_count = safe.pair_count;
    for (int i = 0; i < low_priority.count; i++) {
        const LowPriorityWaiter& waiter = low_priority.waiters[i];
        core::SessionIndex session = sessions.place(waiter.session);
        uint32 wait = add_wait(snapshot, {session, waiter.session.procno, waiter.wait.tag,
                                          static_cast<core::LockMode>(waiter.wait.mode),
                                          waiter.wait.started_at, false, true,
                                          !takes_locks_for_a_moment(waiter.wait.phase)});
        for (const LockHolder& holder : waiter.holders) {
            if (holder.procno == waiter.session.procno)
                continue;
            RawSession raw = {holder.procno, holder.pid, holder.lxid, holder.xid};
            direct[direct_count++] = {session,     sessions.place(raw),
                                      holder.mode, wait_kind_of(waiter.wait.tag),
                                      wait,        start_of(waiter.wait)};
        }
    }

    auto size = [](int count) { return static_cast<std::size_t>(count); };
    snapshot->table = {{snapshot->core_sessions, size(sessions.count())},
                       {locks, size(copy.locks.count)},
                       {holders, size(copy.holders.count)},
                       {waiters, size(copy.waiters.count)},
                       {direct, size(direct_count)}};
}

} // namespace

core::WaitKind wait_kind_of(const LOCKTAG& tag) {
    switch (static_cast<LockTagType>(tag.locktag_type)) {
    case LOCKTAG_RELATION:
    case LOCKTAG_TUPLE:
    case LOCKTAG_TRANSACTION:
    case LOCKTAG_SPECULATIVE_TOKEN:
        return core::WaitKind::data;
    case LOCKTAG_VIRTUALTRANSACTION:
    case LOCKTAG_USERLOCK:
    case LOCKTAG_ADVISORY:
        return core::WaitKind::arranged;
    default:
        return core::WaitKind::object;
    }
}

bool anybody_waits() {
    WaitCounts counts = count_waits();
    return counts.heavyweight > 0 || counts.safe_snapshot > 0 || anybody_waits_at_low_priority();
}

bool take_lock_snapshot(LockSnapshot* snapshot) {
    *snapshot = {};
    WaitCounts expected = count_waits();
    RawCopy copy = {};
    SafeSnapshotWaits safe;
    LowPriorityWaiters low_priority;
    if (expected.heavyweight > 0)
        snapshot->locks_held_ns = copy_all_locks(expected.heavyweight, &copy);
    copy_safe_snapshot_waits(expected.safe_snapshot, &safe);
    copy_low_priority_waits(&low_priority);
    if (copy.locks.count == 0 && safe.waiter_count == 0 && low_priority.count == 0)
        return false;
    build_tables(copy, safe, low_priority, snapshot);
    copy.release();
    return true;
}

} // namespace lockguard::pg
