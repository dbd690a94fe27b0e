#include "locks/kept_waiting_by.h"

#include "core/lock_order.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "sessions/backend_status.h"
#include "shmem/wait_board.h"

namespace lockguard::pg {

namespace {

/// Do the sessions of an apply worker's kind count? All of them do that bring changes from a
/// publisher (15 has one name for them); the launcher does not.
bool is_apply_worker(int pid) {
    const char* name = backend_type_name(B_BG_WORKER, pid);
    constexpr char kPrefix[] = "logical replication ";
    return name != nullptr && strncmp(name, kPrefix, sizeof(kPrefix) - 1) == 0 &&
           strstr(name, "worker") != nullptr;
}

/// May it be kept waiting? What is not known of a session that is just ending does not matter.
bool is_client_or_apply_worker(const SnapshotSession& session) {
    BackendStateOnly state;
    if (!read_backend_state(session.id, &state))
        return false;
    return state.type == B_BACKEND ||
           (state.type == B_BG_WORKER && is_apply_worker(session.id.pid));
}

/// Where the longest of them stands, and the last wait of his chain.
void find_longest(const LockSnapshot& snapshot, core::SessionIndex session,
                  std::span<const core::Chain> chains, const core::KeptWaiting& longest,
                  KeptWaitingBy* kept) {
    kept->waiter = find_in_snapshot(snapshot, longest.procno, InvalidLocalTransactionId);
    Assert(kept->waiter < chains.size());
    core::SessionIndex last = kept->waiter;
    while (chains[last].next != session)
        last = chains[last].next;
    kept->wait = chains[last].wait;
}

} // namespace

KeptWaitingBy find_kept_waiting(const LockSnapshot& snapshot, core::SessionIndex session,
                                TimestampTz taken_at, BehindRecord* record) {
    std::span<const core::Chain> chains =
        call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
            return core::find_chains(snapshot.table, session, core::ChainRule::kept_waiting,
                                     memory);
        });
    auto* kept = new_array<core::KeptWaiting>(chains.size());
    std::size_t count = 0;
    for (core::SessionIndex i = 0; i < chains.size(); i++) {
        if (!chains[i].exists() || i == session)
            continue;
        const SnapshotSession& waiter = snapshot.sessions[i];
        LowPriorityWait own_wait;
        if (read_low_priority_wait(waiter.id.procno, &own_wait) ||
            !is_client_or_apply_worker(waiter))
            continue;
        const SnapshotWait& wait = snapshot.waits[chains[i].wait];
        kept[count++] = {waiter.id.procno, waiter.id.pid, wait.wait_start, chains[i].complete};
    }
    std::span<core::KeptWaiting> waits = {kept, count};
    core::note_look(*record, waits, taken_at);

    KeptWaitingBy result = {};
    result.sessions = static_cast<std::uint32_t>(count);
    const auto first =
        std::min_element(waits.begin(), waits.end(), [](const auto& left, const auto& right) {
            return left.since < right.since;
        });
    if (first != waits.end()) {
        result.longest = std::max<core::Microseconds>(taken_at - first->since, 0);
        find_longest(snapshot, session, chains, *first, &result);
    }
    return result;
}

namespace {

/// The first session for which is_meant() is true; else the number of all.
template <class IsMeant>
core::SessionIndex find_session_of(const LockSnapshot& snapshot, IsMeant is_meant) {
    const std::span<const SnapshotSession> sessions = {snapshot.sessions,
                                                       snapshot.table.sessions.size()};
    return static_cast<core::SessionIndex>(std::ranges::find_if(sessions, is_meant) -
                                           sessions.begin());
}

} // namespace

core::SessionIndex find_in_snapshot(const LockSnapshot& snapshot, int procno,
                                    LocalTransactionId lxid) {
    return find_session_of(snapshot, [=](const SnapshotSession& session) {
        return session.id.procno == procno &&
               (lxid == InvalidLocalTransactionId || session.id.lxid == lxid);
    });
}

core::SessionIndex find_prepared_in_snapshot(const LockSnapshot& snapshot, TransactionId xid) {
    return find_session_of(snapshot, [=](const SnapshotSession& session) {
        return session.id.pid == 0 && session.prepared_xid == xid;
    });
}

} // namespace lockguard::pg
