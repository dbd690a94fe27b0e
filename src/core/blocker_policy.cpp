#include "core/blocker_policy.h"

#include "core/kept_array.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

namespace lockguard::core {
namespace {

constexpr std::uint32_t kNoDecision = std::numeric_limits<std::uint32_t>::max();

/// How long it takes until `reached` satisfies the limit; 0 where it does, kNoAge, which
/// satisfies no limit, where it is unknown.
Microseconds time_to(Microseconds limit, Microseconds reached) {
    if (reached < 0)
        return kNoAge;
    return reached >= limit ? 0 : limit - reached;
}

/// How long the session has left its transaction alone; kNoAge where it has not.
Microseconds idleness(const SessionFacts& facts, Timestamp now) {
    if (facts.idle_in_transaction || facts.prepared)
        return age(facts.state_start, now);
    return facts.stalled ? age(facts.stalled_since, now) : kNoAge;
}

/// What the session does that is held against it, and when it will have done it for long enough.
struct Offence {
    BlockerRemedy remedy;
    Microseconds lasted; // so far
    Microseconds to_go;  // 0: long enough; kNoAge: it never will
};

/// \param xact_start  of its transaction
Offence offence_of(const SessionFacts& facts, Timestamp xact_start, const BlockedRequest& request,
                   const BlockerLimits& limits, Timestamp now) {
    const Microseconds idle = idleness(facts, now);
    const Microseconds idle_to_go = time_to(limits.min_idle, idle);
    const Offence as_idle = {BlockerRemedy::end, idle, limits.end_idle ? idle_to_go : kNoAge};
    if (idle_to_go == 0 || !limits.cancel_active || !facts.active || request.for_transaction)
        return as_idle;
    // A procedure that commits on its way starts anew each time.
    const Microseconds active = std::min(age(facts.state_start, now), age(xact_start, now));
    const Offence as_active = {BlockerRemedy::cancel, active, time_to(limits.min_active, active)};
    const bool idle_first = as_idle.to_go >= 0 && as_idle.to_go < as_active.to_go;
    return idle_first || as_active.to_go < 0 ? as_idle : as_active;
}

bool can_be_named(const Session& session, const SessionFacts& facts) {
    return session.pid > 0 || (session.pid == 0 && facts.prepared);
}

} // namespace

SpareReason spare_reason(const SessionFacts& facts, const BlockerLimits& limits,
                         BlockerRemedy remedy) {
    if (facts.prepared)
        return SpareReason::prepared_transaction;
    if (facts.replication)
        return SpareReason::replication;
    if (!facts.client_backend)
        return SpareReason::background_process;
    if (facts.superuser)
        return SpareReason::superuser;
    if (facts.protected_by_setting)
        return SpareReason::protected_session;
    if (facts.exempt_role)
        return SpareReason::exempt_role;
    if (facts.exempt_database)
        return SpareReason::exempt_database;
    if (facts.exempt_application)
        return SpareReason::exempt_application;
    if (facts.shares_snapshot)
        return SpareReason::shared_snapshot;
    if (remedy == BlockerRemedy::cancel)
        return facts.committing ? SpareReason::committing : SpareReason::none;
    if (!facts.idle_in_transaction && !limits.stalled_clients)
        return SpareReason::stalled_client;
    return SpareReason::none;
}

std::string_view spare_reason_text(SpareReason reason) {
    switch (reason) {
    case SpareReason::none:
        return "nothing spares it";
    case SpareReason::prepared_transaction:
        return "a prepared transaction has no session; somebody must commit it or roll it back";
    case SpareReason::replication:
        return "it is a replication connection";
    case SpareReason::background_process:
        return "it is a background process";
    case SpareReason::superuser:
        return "it has logged in as a superuser";
    case SpareReason::protected_session:
        return "pg_lockguard.protected is on for it";
    case SpareReason::exempt_role:
        return "pg_lockguard.exempt_roles names its role, or one that it is a member of";
    case SpareReason::exempt_database:
        return "pg_lockguard.exempt_databases names its database";
    case SpareReason::exempt_application:
        return "pg_lockguard.exempt_applications matches its application_name";
    case SpareReason::shared_snapshot:
        return "its transaction has exported or imported a snapshot";
    case SpareReason::stalled_client:
        return "it waits for its client in the middle of a statement, and "
               "pg_lockguard.blocker_stalled_clients is off";
    case SpareReason::committing:
        return "it waits until synchronous standbys have its commit";
    case SpareReason::no_client_waits:
        return "the request of a background process does not count: no client waits behind it";
    }
    return {};
}

namespace {

/// Is it for something that counts?
bool is_of_interest(const BlockedRequest& request, const BlockerLimits& limits) {
    if (request.for_transaction)
        return limits.concurrently;
    return is_real_mode(request.wanted) && (limits.request_modes & mode_bit(request.wanted)) != 0;
}

/// Does the request count, for whoever makes it? `marks` is work space, one for each of
/// graph.sessions.
bool counts(const LockGraph& graph, std::span<const SessionFacts> facts,
            const BlockedRequest& request, std::span<bool> marks) {
    if (request.requester != Requester::background)
        return request.requester == Requester::client;
    mark_waiters_behind(graph, request.session, marks);
    for (SessionIndex s = 0; s < std::min(facts.size(), marks.size()); ++s) {
        if (marks[s] && s != request.session && facts[s].waiting_client)
            return true;
    }
    return false;
}

/// Notes a time that is still to come, where it is the next one.
void note_due(Microseconds& next, Microseconds due) {
    if (due > 0 && (next < 0 || due < next))
        next = due;
}

/// Takes the case into the decision on its victim, where it is the better reason: a request that
/// counts goes before one that does not. Then the one that the victim has blocked longest. Where
/// its transaction is younger than several requests, it has blocked them equally long; then the one
/// that has waited longest counts.
void merge(BlockerDecision& decision, const BlockerDecision& other,
           std::span<const BlockedRequest> requests, Timestamp now) {
    const auto rank = [&](const BlockerDecision& d) {
        return std::tuple(d.spared != SpareReason::no_client_waits, d.blocked_for,
                          age(requests[d.request].wait_start, now));
    };
    if (rank(other) > rank(decision))
        decision = other;
}

/// Completes the decisions and puts them, in their order, into the judgement's lists.
///
/// \param decision_on  by session: the index of its decision, or kNoDecision
void keep_decisions(const LockGraph& graph, std::span<const std::uint32_t> decision_on,
                    std::span<BlockerDecision> decisions, std::pmr::memory_resource& memory,
                    Judgement& judgement) {
    for (SessionIndex waiter = 0; waiter < graph.sessions.size(); ++waiter) {
        for (const Edge& edge : graph.blockers_of(waiter)) {
            if (edge.blocker != waiter && decision_on[edge.blocker] != kNoDecision)
                ++decisions[decision_on[edge.blocker]].blocks;
        }
    }
    const auto rank = [&graph](const BlockerDecision& decision) {
        return std::tuple(decision.spared != SpareReason::none, -decision.blocked_for,
                          graph.sessions[decision.victim].pid, decision.victim);
    };
    std::sort(
        decisions.begin(), decisions.end(),
        [&](const BlockerDecision& a, const BlockerDecision& b) { return rank(a) < rank(b); });
    KeptArray<BlockerDecision> result(decisions.size(), memory);
    std::copy(decisions.begin(), decisions.end(), result.data());
    const auto kept = result.keep();
    const auto to_end = static_cast<std::size_t>(
        std::count_if(kept.begin(), kept.end(), [](const BlockerDecision& decision) {
            return decision.spared == SpareReason::none;
        }));
    judgement.to_end = kept.first(to_end);
    judgement.to_spare = kept.subspan(to_end);
}

} // namespace

Judgement judge_blockers(const LockGraph& graph, std::span<const SessionFacts> facts,
                         std::span<const BlockedRequest> requests, const BlockerLimits& limits,
                         Timestamp now, std::pmr::memory_resource& memory) {
    Judgement judgement;
    const std::size_t known_sessions = std::min(facts.size(), graph.sessions.size());
    std::pmr::vector<std::uint32_t> decision_on(graph.sessions.size(), kNoDecision, &memory);
    std::pmr::vector<BlockerDecision> decisions(&memory);
    // By requests that count, and by those that do not.
    std::pmr::vector<Microseconds> due_in(graph.sessions.size(), kNoAge, &memory);
    std::pmr::vector<Microseconds> due_in_vain(graph.sessions.size(), kNoAge, &memory);
    KeptArray<bool> marks(graph.sessions.size(), memory);

    for (std::uint32_t i = 0; i < requests.size(); ++i) {
        const BlockedRequest& request = requests[i];
        if (!is_of_interest(request, limits) || request.requester == Requester::exempt ||
            request.session >= graph.sessions.size())
            continue;
        const bool in_vain = !counts(graph, facts, request, {marks.data(), graph.sessions.size()});
        const Microseconds waited = age(request.wait_start, now);

        for (const Edge& edge : graph.blockers_of(request.session)) {
            const SessionIndex victim = edge.blocker;
            if (!edge.holds || victim == request.session || victim >= known_sessions ||
                !can_be_named(graph.sessions[victim], facts[victim]))
                continue;
            const Timestamp xact_start = facts[victim].xact_start;
            const Offence offence = offence_of(facts[victim], xact_start, request, limits, now);
            const Microseconds blocked_for = std::min(waited, age(xact_start, now));
            const Microseconds to_wait = time_to(limits.min_wait, blocked_for);
            if (offence.to_go < 0 || to_wait < 0)
                continue;
            const Microseconds due = std::max(offence.to_go, to_wait);
            if (due > 0) {
                note_due((in_vain ? due_in_vain : due_in)[victim], due);
                continue;
            }

            BlockerDecision decision = {
                victim,        i, offence.lasted,
                blocked_for,   0, spare_reason(facts[victim], limits, offence.remedy),
                offence.remedy};
            if (in_vain && decision.spared == SpareReason::none)
                decision.spared = SpareReason::no_client_waits;
            if (decision_on[victim] == kNoDecision) {
                decision_on[victim] = static_cast<std::uint32_t>(decisions.size());
                decisions.push_back(decision);
            } else {
                merge(decisions[decision_on[victim]], decision, requests, now);
            }
        }
    }
    for (SessionIndex victim = 0; victim < graph.sessions.size(); ++victim) {
        const std::uint32_t decision = decision_on[victim];
        if (decision == kNoDecision || decisions[decision].spared == SpareReason::no_client_waits)
            note_due(judgement.next_due, due_in[victim]);
        if (decision == kNoDecision)
            note_due(judgement.next_due, due_in_vain[victim]);
    }
    if (!decisions.empty())
        keep_decisions(graph, decision_on, decisions, memory, judgement);
    return judgement;
}

} // namespace lockguard::core
