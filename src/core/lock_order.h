// Since when somebody waits on somebody, through others: chains of waits, and rings of them.
//
// A chain is complete when the last of its waits has begun: who has waited for ten seconds for
// something else, and comes to wait through that for a third session now, has waited for that one
// since now. Where there are several chains, the one that was complete first counts.
//
// A ring is a chain that leads back to where it starts: a deadlock. It closes when its last wait
// begins, and that wait's session is the one that closed it. All who look at one ring come to the
// same answer, so that exactly one of its members can end it.
#pragma once

#include "core/lock_graph.h"

#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// Which waits lead on.
enum class ChainRule : std::uint8_t {
    any_wait,
    /// Those by which a session is kept waiting: at the end of the chain stands a wait for data
    /// (WaitKind), and no wait on the way to it is for what is made to be waited for.
    kept_waiting,
};

/// The first complete chain from a session to the target.
struct Chain {
    Timestamp complete; // when its last wait began; kUnknownTime where there is no chain
    SessionIndex last;  // whose wait that was
    SessionIndex next;  // on whom the session waits, on its way
    std::uint32_t wait; // with which wait (Waiter::wait, DirectWait::wait)

    bool exists() const { return complete != kUnknownTime; }
};

/// The chains from each session to `target`, in the order of table.sessions; for `target` itself
/// the ring through it. Waits that began at the same time are ordered by the pid. The time is
/// proportional to the entries of the table times the length of the longest chain.
///
/// \param table   where each waiter and direct wait says since when it waits
/// \param memory  where the result is allocated
/// \throws std::bad_alloc
std::span<const Chain> find_chains(const LockTable& table, SessionIndex target, ChainRule rule,
                                   std::pmr::memory_resource& memory);

/// A session on a ring, and the wait with which it waits on the next one (the last on the first).
struct RingMember {
    SessionIndex session;
    std::uint32_t wait;
};

struct Ring {
    std::span<const RingMember> members; // in order, from the session asked for; empty: no ring
    SessionIndex closer;                 // the member whose wait began last
    Timestamp closed;                    // when that was
};

/// The ring through `self`, of all the one that was closed first.
///
/// \param chains  to `self`, by ChainRule::any_wait
/// \param memory  where the members are allocated
/// \throws std::bad_alloc
Ring find_ring(std::span<const Chain> chains, SessionIndex self, std::pmr::memory_resource& memory);

} // namespace lockguard::core
