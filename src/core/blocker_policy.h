// Whom the worker ends, whose statement it cancels, and whom it spares and why. Pure: the wait-for
// graph, the settings and the clock in, decisions out.
#pragma once

#include "core/lock_graph.h"
#include "core/time.h"

#include <cstdint>
#include <memory_resource>
#include <span>
#include <string_view>

namespace lockguard::core {

/// The settings of the worker: pg_lockguard.blocker_*.
struct BlockerLimits {
    Microseconds min_idle = 0;
    Microseconds min_wait = 0;
    bool stalled_clients = false;                        // end those that are stalled, too
    ModeMask request_modes = mode_bit(kAccessExclusive); // whose requests for relations count
    bool concurrently = false;  // so do those who wait for a transaction to end
    bool end_idle = true;       // blocker_action is not off
    bool cancel_active = false; // blocker_active_action is not off
    Microseconds min_active = 0;
};

/// What is done about a blocker.
enum class BlockerRemedy : std::uint8_t {
    end,    // the session, which does nothing
    cancel, // its statement, which has run for too long
};

/// What a session is, as far as the policy cares. One for each session of the graph.
struct SessionFacts {
    bool client_backend;      // no walsender, background worker, autovacuum, prepared transaction
    bool superuser;           // its authenticated role
    bool idle_in_transaction; // state known to be "idle in transaction", aborted included
    bool aborted;
    Timestamp state_start;               // since when it is in that state
    Timestamp xact_start = kUnknownTime; // since when it is in its transaction

    bool prepared = false;    // a prepared transaction; state_start says since when
    bool replication = false; // a walsender
    bool stalled = false;     // active, but it has been reading from its client since stalled_since
    Timestamp stalled_since = 0;
    bool protected_by_setting = false; // pg_lockguard.protected is on in the session
    bool exempt_role = false;          // by pg_lockguard.exempt_roles, and so on
    bool exempt_database = false;
    bool exempt_application = false;
    bool shares_snapshot = false; // its transaction has exported or imported a snapshot

    bool waiting_client = false; // a client that waits: it makes a request before it count

    bool active = false;     // at work on a statement; state_start says since when
    bool committing = false; // its commit waits for synchronous standbys
};

/// Who makes a request.
enum class Requester : std::uint8_t {
    client,
    background, // any other process: it counts as soon as a client waits behind it
    exempt,     // it never counts: the startup process of a standby has its own rules
};

/// A request of the graph that may count: it waits for a mode of a relation, or, as CREATE INDEX
/// CONCURRENTLY and the like, for the end of a transaction.
struct BlockedRequest {
    SessionIndex session;
    std::uint32_t relation; // OID; 0 where it waits for a transaction
    LockMode wanted;
    Timestamp wait_start;
    Requester requester;
    bool for_transaction = false;
};

/// Why a session that has blocked a request for long enough, and has done nothing (or one and the
/// same thing) for long enough, is not ended (or cancelled) all the same. In the order in which the
/// clauses are asked.
enum class SpareReason : std::uint8_t {
    none, // it is ended, or cancelled
    prepared_transaction,
    replication,
    background_process,
    superuser,
    protected_session,
    exempt_role,
    exempt_database,
    exempt_application,
    shared_snapshot, // others read on with its snapshot, or it with another's
    stalled_client,  // active, and pg_lockguard.blocker_stalled_clients is off
    committing,      // a cancel would report a commit that the standbys do not have
    no_client_waits, // all that it blocks are requests of background processes, before no client
};
inline constexpr std::size_t kSpareReasons = 13;

/// `victim` blocks requests[request]: the request that it has blocked longest.
struct BlockerDecision {
    SessionIndex victim;
    std::uint32_t request;
    Microseconds idle; // how long it has done nothing; or, to be cancelled, at its statement
    Microseconds blocked_for;
    std::uint32_t blocks; // sessions that wait directly on the victim
    SpareReason spared = SpareReason::none;
    BlockerRemedy remedy = BlockerRemedy::end;
};

/// What comes of one look. Each session is in one of the lists, once, or in none: longest-blocked
/// first, then by pid.
struct Judgement {
    std::span<const BlockerDecision> to_end; // or to cancel
    std::span<const BlockerDecision> to_spare;
    /// When the next session would be in one of them, if everything stays as it is; negative where
    /// none would. So the worker need not look in vain, and is not late.
    Microseconds next_due = -1;
};

/// Judges. A request counts when it wants one of request_modes on a relation, or waits for the end
/// of a transaction (with `concurrently`), for a client; or for a background process, where a
/// client waits behind it, directly or through others. A session is to be ended when, for one such
/// request, all of these hold:
/// - it HOLDS a conflicting lock (a hard edge): standing ahead in the queue is no offence;
/// - it is idle in transaction, aborted or not, and has been for min_idle or longer; or it is
///   stalled, and has been for min_idle or longer (with `end_idle`);
/// - it has blocked the request for min_wait or longer: the shorter of the request's wait and the
///   age of the session's transaction;
/// - no reason to spare it applies (see spare_reason).
/// Its statement is to be cancelled (with `cancel_active`) where in place of the second clause it
/// is active, and its statement has run in this transaction for min_active or longer; the request
/// must be one for a relation then. A session that has been stalled for min_idle is not cancelled:
/// it would not hear of it before its client goes on.
///
/// Where only the last clause fails, it is to be spared; and also, as no_client_waits, where it
/// would be ended if the requests of background processes counted as they are.
///
/// A clock that has jumped backwards makes ages negative, and a negative age satisfies nothing
/// (unless the limit is 0 and the age is 0). A start of 0 or kUnknownTime is unknown, as in the
/// server's own structures; an unknown age satisfies nothing either. A session without facts, or
/// without a pid, is never ended. Where a session has blocked several requests equally long, the
/// decision names the one that has waited longest, then the first.
///
/// \param facts  one for each of graph.sessions
/// \throws std::bad_alloc
Judgement judge_blockers(const LockGraph& graph, std::span<const SessionFacts> facts,
                         std::span<const BlockedRequest> requests, const BlockerLimits& limits,
                         Timestamp now, std::pmr::memory_resource& memory);

/// The first reason to spare a session that is otherwise to be ended; never no_client_waits, which
/// is not about the session.
SpareReason spare_reason(const SessionFacts& facts, const BlockerLimits& limits,
                         BlockerRemedy remedy);

/// In words that follow "PID 4711 is spared: ". Static text.
std::string_view spare_reason_text(SpareReason reason);

} // namespace lockguard::core
