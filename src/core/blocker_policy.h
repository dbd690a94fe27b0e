// Whom the worker ends. Pure: the wait-for graph, the settings and the clock in, decisions out.
#pragma once

#include "core/lock_graph.h"
#include "core/text.h"

#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// Where the worker's settings come from: pg_lockguard.blocker_min_idle and blocker_min_wait.
struct BlockerLimits {
    Microseconds min_idle;
    Microseconds min_wait;
};

/// What a session is, as far as the policy cares. One for each session of the graph.
struct SessionFacts {
    bool client_backend;      // no walsender, background worker, autovacuum, prepared transaction
    bool superuser;           // its authenticated role
    bool idle_in_transaction; // state known to be "idle in transaction", aborted included
    bool aborted;
    Timestamp state_start; // since when it is in that state
};

/// A request of the graph that may count: it waits for a mode of a relation.
struct BlockedRequest {
    SessionIndex session;
    std::uint32_t relation; // OID
    LockMode wanted;
    Timestamp wait_start;
    bool client_backend; // false for the startup process of a standby, which has its own rules
};

/// "End `victim`, because it blocks requests[request]": the request that it has blocked longest.
struct BlockerDecision {
    SessionIndex victim;
    std::uint32_t request;
    Microseconds idle;
    Microseconds blocked_for;
    std::uint32_t blocks; // sessions that wait directly on the victim
};

/// Judges. A request counts when it wants ACCESS EXCLUSIVE on a relation, for a client backend. A
/// session is to be ended when, for one such request, all of these hold:
/// - it HOLDS a conflicting lock (a hard edge): standing ahead in the queue is no offence;
/// - it is a client backend, and its authenticated role is no superuser's;
/// - it is idle in transaction, aborted or not, and has been for min_idle or longer;
/// - it has blocked the request for min_wait or longer: the shorter of the request's wait and the
///   age of the session's transaction.
/// A clock that has jumped backwards makes ages negative, and a negative age satisfies nothing
/// (unless the limit is 0 and the age is 0). A start of 0 or kUnknownTime is unknown, as in the
/// server's own structures; an unknown age satisfies nothing either. A session without facts, or
/// without a pid, is never ended. Where a session has blocked several requests equally long, the
/// decision names the one that has waited longest, then the first.
///
/// \param facts  one for each of graph.sessions
/// \return one decision for each victim, longest-blocked first, then by pid
/// \throws std::bad_alloc
std::span<const BlockerDecision> judge_blockers(const LockGraph& graph,
                                                std::span<const SessionFacts> facts,
                                                std::span<const BlockedRequest> requests,
                                                const BlockerLimits& limits, Timestamp now,
                                                std::pmr::memory_resource& memory);

} // namespace lockguard::core
