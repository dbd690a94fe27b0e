// The wait-for graph of the lock manager, as plain data.
//
// Input is what one look at the lock table shows: who holds what, and who queues in which order
// (LockTable). Output is the set of edges "waiter is blocked by blocker" (LockGraph). The rule is
// PostgreSQL's own (pg_blocking_pids, ProcSleep): a session is blocked by every session that holds
// a conflicting mode of the awaited lock (a hard edge), and by every session that stands ahead of
// it in the queue and wants a conflicting mode (a soft edge).
#pragma once

#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// Index into LockTable::sessions.
using SessionIndex = std::uint32_t;

/// A lock mode's number as in PostgreSQL's LOCKMODE: 1 (AccessShareLock) to 8
/// (AccessExclusiveLock). 0 means "no lock mode", as for a safe-snapshot wait.
using LockMode = std::uint8_t;
inline constexpr LockMode kNoLockMode = 0;
inline constexpr LockMode kAccessExclusive = 8;
inline constexpr unsigned kMaxLockMode = 9;

/// A set of lock modes; bit n stands for mode n, as in PostgreSQL's LOCKMASK.
using ModeMask = std::uint32_t;
constexpr ModeMask mode_bit(LockMode mode) {
    return ModeMask{1} << mode;
}

/// Microseconds since the PostgreSQL epoch, as in TimestampTz.
using Timestamp = std::int64_t;
inline constexpr Timestamp kUnknownTime = INT64_MAX; // sorts after every real time

/// A session, seen as its lock group (a parallel query counts as its leader), or a prepared
/// transaction (pid 0).
struct Session {
    std::int32_t pid;
    Timestamp xact_start; // kUnknownTime where there is no transaction or it can't be known
};

/// A session that holds modes of a lock.
struct Holder {
    SessionIndex session;
    ModeMask held;
};

/// A session that queues for a mode of a lock.
struct Waiter {
    SessionIndex session;
    LockMode wanted;
    std::uint32_t wait = 0;         // which wait it is, to the caller
    Timestamp since = kUnknownTime; // when the wait began; only core/lock_order asks
};

/// What a wait is for: whether it counts where somebody is kept waiting (core/kept_waiting).
enum class WaitKind : std::uint8_t {
    data,     // a relation, or a row: by its tuple, by the transaction or the insertion that has it
    object,   // any other object of the server
    arranged, // what is made to be waited for: an advisory lock, a virtual transaction's end, a
              // safe snapshot
};

/// One lock with a queue: a slice of LockTable::holders and one of LockTable::waiters, the latter
/// in queue order.
struct Lock {
    std::uint32_t first_holder;
    std::uint32_t holder_count;
    std::uint32_t first_waiter;
    std::uint32_t waiter_count;
    /// conflicts[m] is the set of modes that conflict with mode m; kMaxLockMode entries or more.
    const std::int32_t* conflicts;
    WaitKind kind = WaitKind::data;
};

/// A wait that is no queue of the lock table: for a safe snapshot, or at low priority. All of its
/// blockers hold what it waits for.
struct DirectWait {
    SessionIndex waiter;
    SessionIndex blocker;
    LockMode held; // the mode that the blocker holds, or kNoLockMode
    WaitKind kind = WaitKind::data;
    std::uint32_t wait = 0; // as in Waiter
    Timestamp since = kUnknownTime;
};

/// What one look at the lock table shows.
struct LockTable {
    std::span<const Session> sessions;
    std::span<const Lock> locks;
    std::span<const Holder> holders;
    std::span<const Waiter> waiters;
    std::span<const DirectWait> direct_waits;
};

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
