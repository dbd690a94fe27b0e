// The wait-for graph of the lock manager, as plain data.
//
// Input is what one look at the lock table shows: who holds what, and who queues in which order
// (LockTable). Output is the set of edges "waiter is blocked by blocker" (LockGraph). The rule is
// PostgreSQL's own (pg_blocking_pids, ProcSleep): a session is blocked by every session that holds
// a conflicting mode of the awaited lock (a hard edge), and by every session that stands ahead of
// it in the queue and wants a conflicting mode (a soft edge).
#pragma once

#include "core/lock_table.h"

#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// "The waiter whose list this is in is blocked by `blocker`".
struct Edge {
    SessionIndex blocker;
    bool holds;    // it holds a conflicting mode; else it only stands ahead in the queue
    LockMode mode; // the strongest conflicting mode that it holds, else the mode that it wants
};

/// The edges, grouped by waiter: those of session s are edges[first_edge[s]] up to
/// edges[first_edge[s + 1]], each blocker once, ascending by SessionIndex.
struct LockGraph {
    std::span<const Session> sessions;
    std::span<const Edge> edges;
    std::span<const std::uint32_t> first_edge; // sessions.size() + 1 entries

    std::span<const Edge> blockers_of(SessionIndex session) const {
        return edges.subspan(first_edge[session], first_edge[session + 1] - first_edge[session]);
    }
};

/// Derives the edges. Members of one lock group never block each other (they are one session here).
/// A blocker that both holds and queues ahead counts as a holder. The time is proportional to the
/// holders, waiters and edges, not to holders times waiters.
///
/// \param table   spans that must outlive the result's `sessions`
/// \param memory  where the result and the work space are allocated
/// \throws std::bad_alloc
LockGraph build_lock_graph(const LockTable& table, std::pmr::memory_resource& memory);

/// Sets marks[s] for each session that waits on `session`, directly or through others, and clears
/// the rest. `session` itself is marked where it is on a cycle. Never throws.
///
/// \param marks  one for each of graph.sessions
void mark_waiters_behind(const LockGraph& graph, SessionIndex session, std::span<bool> marks);

} // namespace lockguard::core
