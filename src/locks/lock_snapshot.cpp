#include "locks/lock_snapshot.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "locks/lock_copy.h"
#include "locks/unqueued_waits.h"

namespace lockguard::pg {

namespace {

/// Is it a sleep on somebody's transaction?
bool is_sleep(const LOCKTAG& tag) {
    return tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION ||
           tag.locktag_type == LOCKTAG_TRANSACTION;
}

core::Lock core_lock_of(const CopiedLock& lock) {
    return {static_cast<uint32>(lock.first_holder),         static_cast<uint32>(lock.holder_count),
            static_cast<uint32>(lock.first_waiter),         static_cast<uint32>(lock.waiter_count),
            GetLockTagsMethodTable(&lock.tag)->conflictTab, wait_kind_of(lock.tag)};
}

/// Turns what was copied into the core's plain tables.
class SnapshotBuilder {
  public:
    SnapshotBuilder(const LockCopy& copy, const SafeSnapshotWaits& safe,
                    const LowPriorityWaiters& low_priority, LockSnapshot* snapshot)
        : copy_(copy), safe_(safe), low_priority_(low_priority), snapshot_(snapshot) {}

    void build() {
        reserve();
        add_queues();
        add_holders();
        add_safe_snapshot_waits();
        add_low_priority_waits();
        Assert(session_count_ <= most_sessions_ && direct_count_ <= most_direct_);
        Assert(static_cast<std::size_t>(snapshot_->wait_count) <= most_waits_);
        snapshot_->table = {{sessions_, session_count_},
                            {locks_, count_of(copy_.locks)},
                            {holders_, count_of(copy_.holders)},
                            {waiters_, count_of(copy_.waiters)},
                            {direct_, direct_count_}};
    }

  private:
    template <class Element>
    static std::size_t count_of(const Room<Element>& room) {
        return static_cast<std::size_t>(room.count);
    }

    void reserve() {
        most_waits_ = count_of(copy_.waiters) + safe_.waiters.size() + low_priority_.waiters.size();
        most_direct_ = safe_.pairs.size() + low_priority_.holder_count;
        most_sessions_ = most_waits_ + count_of(copy_.holders) + most_direct_;
        snapshot_->sessions = new_array<SnapshotSession>(most_sessions_);
        sessions_ = new_array<core::Session>(most_sessions_);
        snapshot_->waits = new_array<SnapshotWait>(most_waits_);
        locks_ = new_array<core::Lock>(count_of(copy_.locks));
        holders_ = new_array<core::Holder>(count_of(copy_.holders));
        waiters_ = new_array<core::Waiter>(count_of(copy_.waiters));
        direct_ = new_array<core::DirectWait>(most_direct_);

        // One more place for a prepared transaction that has none.
        auto places = static_cast<std::size_t>(compat::count_of_procs()) + 1;
        place_of_procno_ = new_array<int>(places);
        std::fill_n(place_of_procno_, places, -1);
    }

    /// The session's place in the graph.
    core::SessionIndex place(const CopiedSession& session) {
        Assert(session.id.pid == 0 || !TransactionIdIsValid(session.prepared_xid));
        int procno = session.id.procno;
        int& place = place_of_procno_[procno < 0 ? compat::count_of_procs() : procno];
        if (place < 0) {
            place = static_cast<int>(session_count_);
            // Unlocked. Database and role stay the same as long as the session lives, and the wait
            // event is of this moment, as in pg_stat_activity.
            const PGPROC* proc = procno < 0 ? nullptr : GetPGProcByNumber(procno);
            snapshot_->sessions[session_count_] = {session.id,
                                                   session.prepared_xid,
                                                   proc == nullptr ? InvalidOid : proc->databaseId,
                                                   proc == nullptr ? InvalidOid : proc->roleId,
                                                   proc == nullptr ? 0 : proc->wait_event_info,
                                                   -1};
            sessions_[session_count_] = {session.id.pid};
            session_count_++;
        }
        return static_cast<core::SessionIndex>(place);
    }

    /// Enters a wait, and makes it its session's own where that has none that began earlier.
    /// Returns its index.
    uint32 add_wait(const SnapshotWait& wait) {
        SnapshotSession* session = &snapshot_->sessions[wait.session];
        int index = snapshot_->wait_count++;
        snapshot_->waits[index] = wait;
        if (session->first_wait < 0 ||
            wait.wait_start < snapshot_->waits[session->first_wait].wait_start)
            session->first_wait = index;
        return static_cast<uint32>(index);
    }

    void add_queues() {
        // A wait may be so young that its start is not published yet: then it starts now.
        TimestampTz now = GetCurrentTimestamp();
        for (int i = 0; i < copy_.locks.count; i++) {
            const CopiedLock& lock = copy_.locks.elements[i];
            locks_[i] = core_lock_of(lock);
            for (int j = lock.first_waiter; j < lock.first_waiter + lock.waiter_count; j++)
                waiters_[j] = queued(copy_.waiters.elements[j], lock.tag, now);
        }
    }

    core::Waiter queued(const CopiedWaiter& waiter, const LOCKTAG& tag, TimestampTz now) {
        core::SessionIndex session = place(waiter.session);
        // A sleep at low priority has the wait itself in its place, by add_low_priority_waits().
        if (is_sleep(tag) && low_priority_.contains(waiter.procno))
            return {session, core::kNoLockMode};
        auto mode = static_cast<core::LockMode>(waiter.wanted);
        TimestampTz start = waiter.wait_start == 0 ? now : waiter.wait_start;
        uint32 wait = add_wait({session, waiter.procno, tag, mode, start, false, false, true});
        return {session, mode, wait, start_in_queue(waiter, tag, start)};
    }

    void add_holders() {
        for (int i = 0; i < copy_.holders.count; i++) {
            const CopiedHolder& holder = copy_.holders.elements[i];
            holders_[i] = {place(holder.session), static_cast<core::ModeMask>(holder.held)};
        }
    }

    void add_safe_snapshot_waits() {
        auto first = static_cast<uint32>(snapshot_->wait_count);
        for (const CopiedSession& waiter : safe_.waiters)
            add_wait(
                {place(waiter), waiter.id.procno, {}, core::kNoLockMode, 0, true, false, true});
        for (const SafeSnapshotWaits::Pair& pair : safe_.pairs) {
            // It is not known since when: it did not begin to wait later than anybody else.
            direct_[direct_count_++] = {place(safe_.waiters[pair.waiter]),
                                        place(pair.blocker),
                                        core::kNoLockMode,
                                        core::WaitKind::arranged,
                                        first + static_cast<uint32>(pair.waiter),
                                        0};
        }
    }

    void add_low_priority_waits() {
        for (const LowPriorityWaiter& waiter : low_priority_.waiters) {
            core::SessionIndex session = place(waiter.session);
            uint32 wait =
                add_wait({session, waiter.session.id.procno, waiter.wait.tag,
                          static_cast<core::LockMode>(waiter.wait.mode), waiter.wait.started_at,
                          false, true, !takes_locks_for_a_moment(waiter.wait.phase)});
            for (const LockHolder& holder : waiter.holders) {
                if (holder.session.procno == waiter.session.id.procno)
                    continue;
                direct_[direct_count_++] = {
                    session,     place({holder.session, holder.prepared_xid}),
                    holder.mode, wait_kind_of(waiter.wait.tag),
                    wait,        start_of(waiter.wait)};
            }
        }
    }

    const LockCopy& copy_;
    const SafeSnapshotWaits& safe_;
    const LowPriorityWaiters& low_priority_;
    LockSnapshot* snapshot_;

    int* place_of_procno_ = nullptr; // -1 where it has none yet
    core::Session* sessions_ = nullptr;
    std::size_t session_count_ = 0;
    core::Lock* locks_ = nullptr;
    core::Holder* holders_ = nullptr;
    core::Waiter* waiters_ = nullptr;
    core::DirectWait* direct_ = nullptr;
    std::size_t direct_count_ = 0;
    std::size_t most_waits_ = 0; // room in the tables
    std::size_t most_sessions_ = 0;
    std::size_t most_direct_ = 0;
};

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

uint32 wants_of(const LockSnapshot& snapshot, const SnapshotSession& session) {
    if (session.first_wait < 0)
        return 0;
    const SnapshotWait& wait = snapshot.waits[session.first_wait];
    return wait.safe_snapshot ? 1U << 16 : (wait.tag.locktag_type << 8U) + wait.mode;
}

bool anybody_waits() {
    WaitCounts counts = count_waits();
    return counts.heavyweight > 0 || counts.safe_snapshot > 0 || anybody_waits_at_low_priority();
}

bool take_lock_snapshot(LockSnapshot* snapshot) {
    *snapshot = {};
    WaitCounts expected = count_waits();
    LockCopy copy = {};
    SafeSnapshotWaits safe;
    LowPriorityWaiters low_priority;
    if (expected.heavyweight > 0)
        copy_locks(expected.heavyweight, &copy);
    if (expected.safe_snapshot > 0)
        copy_safe_snapshot_waits(&safe);
    copy_low_priority_waits(&low_priority);
    if (copy.locks.count == 0 && safe.waiters.empty() && low_priority.waiters.empty())
        return false;
    snapshot->locks_held_ns = copy.locks_held_ns;
    SnapshotBuilder(copy, safe, low_priority, snapshot).build();
    copy.release();
    return true;
}

bool take_wait_graph(WaitGraph* graph) {
    graph->graph = {};
    if (!take_lock_snapshot(&graph->snapshot))
        return false;
    graph->graph = call_core(CurrentMemoryContext, [graph](std::pmr::memory_resource& memory) {
        return core::build_lock_graph(graph->snapshot.table, memory);
    });
    return true;
}

} // namespace lockguard::pg
