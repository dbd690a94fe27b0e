#include "core/blocker_policy.h"

#include "core/kept_array.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

namespace lockguard::core {
namespace {

constexpr Microseconds kNoAge = -1; // satisfies no limit

/// Time since start; kNoAge where that is unknown or in the future (as kUnknownTime always is).
/// Never overflows.
Microseconds age(Timestamp start, Timestamp now) {
    if (start == 0 || start > now)
        return kNoAge;
    // Modulo 2^64 the difference of two int64 is exact; it may exceed int64 all the same.
    const std::uint64_t difference =
        static_cast<std::uint64_t>(now) - static_cast<std::uint64_t>(start);
    constexpr auto kLongest = static_cast<std::uint64_t>(std::numeric_limits<Microseconds>::max());
    return static_cast<Microseconds>(std::min(difference, kLongest));
}

bool satisfies(Microseconds reached, Microseconds limit) {
    return reached >= 0 && reached >= limit;
}

bool may_be_ended(const Session& session, const SessionFacts& facts) {
    return session.pid > 0 && facts.client_backend && !facts.superuser && facts.idle_in_transaction;
}

} // namespace

std::span<const BlockerDecision> judge_blockers(const LockGraph& graph,
                                                std::span<const SessionFacts> facts,
                                                std::span<const BlockedRequest> requests,
                                                const BlockerLimits& limits, Timestamp now,
                                                std::pmr::memory_resource& memory) {
    const std::size_t known_sessions = std::min(facts.size(), graph.sessions.size());
    constexpr std::uint32_t kNoDecision = std::numeric_limits<std::uint32_t>::max();
    std::pmr::vector<std::uint32_t> decision_on(graph.sessions.size(), kNoDecision, &memory);
    std::pmr::vector<BlockerDecision> decisions(&memory);

    for (std::uint32_t i = 0; i < requests.size(); ++i) {
        const BlockedRequest& request = requests[i];
        if (request.wanted != kAccessExclusive || !request.client_backend ||
            request.session >= graph.sessions.size())
            continue;
        const Microseconds waited = age(request.wait_start, now);
        if (!satisfies(waited, limits.min_wait))
            continue;

        for (const Edge& edge : graph.blockers_of(request.session)) {
            const SessionIndex victim = edge.blocker;
            if (!edge.holds || victim == request.session || victim >= known_sessions ||
                !may_be_ended(graph.sessions[victim], facts[victim]))
                continue;
            const Microseconds idle = age(facts[victim].state_start, now);
            const Microseconds blocked_for =
                std::min(waited, age(graph.sessions[victim].xact_start, now));
            if (!satisfies(idle, limits.min_idle) || !satisfies(blocked_for, limits.min_wait))
                continue;

            if (decision_on[victim] == kNoDecision) {
                decision_on[victim] = static_cast<std::uint32_t>(decisions.size());
                decisions.push_back({victim, i, idle, blocked_for, 0});
                continue;
            }
            BlockerDecision& decision = decisions[decision_on[victim]];
            // Where the victim's transaction is younger than several requests, it has blocked them
            // equally long; then the one that has waited longest counts.
            if (std::tuple(blocked_for, waited) >
                std::tuple(decision.blocked_for, age(requests[decision.request].wait_start, now))) {
                decision.request = i;
                decision.blocked_for = blocked_for;
            }
        }
    }
    if (decisions.empty())
        return {};

    for (SessionIndex waiter = 0; waiter < graph.sessions.size(); ++waiter) {
        for (const Edge& edge : graph.blockers_of(waiter)) {
            if (edge.blocker != waiter && decision_on[edge.blocker] != kNoDecision)
                ++decisions[decision_on[edge.blocker]].blocks;
        }
    }
    std::sort(decisions.begin(), decisions.end(),
              [&](const BlockerDecision& a, const BlockerDecision& b) {
                  return std::tuple(-a.blocked_for, graph.sessions[a.victim].pid, a.victim) <
                         std::tuple(-b.blocked_for, graph.sessions[b.victim].pid, b.victim);
              });
    KeptArray<BlockerDecision> result(decisions.size(), memory);
    std::copy(decisions.begin(), decisions.end(), result.data());
    return result.keep();
}

} // namespace lockguard::core
