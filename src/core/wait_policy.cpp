#include "core/wait_policy.h"

#include <algorithm>

namespace lockguard::core {
namespace {

/// What the rounds remembered say about bursts.
struct Experience {
    std::uint32_t rounds;
    std::uint32_t fitting;        // of these: a burst of max_burst would have sufficed
    Microseconds longest_fitting; // 0 where there is none
};

Experience recall(const WaitPolicy& policy) {
    Experience seen{};
    seen.rounds = std::min(policy.rounds, WaitPolicy::kRemembered);
    for (std::uint32_t i = 0; i < seen.rounds; ++i) {
        if (policy.needed[i] > policy.limits.max_burst)
            continue;
        ++seen.fitting;
        seen.longest_fitting = std::max(seen.longest_fitting, policy.needed[i]);
    }
    return seen;
}

Microseconds since(Timestamp start, Timestamp now) {
    return now > start ? now - start : 0;
}

void remember_round(WaitPolicy& policy, Microseconds took) {
    policy.needed[policy.rounds % WaitPolicy::kRemembered] = took;
    policy.rounds_time += took;
    ++policy.rounds;
    policy.measuring = false;
}

/// Learns from the sleep on holders that has ended, if there was one.
void learn_from_sleep(WaitPolicy& policy, Timestamp now) {
    if (policy.sleep_bound == 0)
        return;
    const bool holders_ended = since(policy.sleep_start, now) < policy.sleep_bound;
    policy.sleep_bound = 0;
    policy.vain_sleeps = holders_ended ? 0 : policy.vain_sleeps + 1;
    if (!policy.measuring)
        return;
    // A round that outlasts one sleep goes on in the next, until it is too long for any burst.
    const Microseconds took = since(policy.round_start, now);
    if (holders_ended || took > policy.limits.max_burst)
        remember_round(policy, took);
}

/// All holders are active, or at worst between two statements.
bool is_busy(const Obstacles& obstacles) {
    return obstacles.idle == 0 || obstacles.longest_idle <= kBetweenStatements;
}

/// The time until the holders end says what a burst needs only where a burst may be thought of:
/// that an idle session stayed for an hour says nothing about the busy ones.
bool is_telling(const WaitPolicy& policy, const Obstacles& obstacles) {
    return is_busy(obstacles) && !obstacles.autovacuum &&
           obstacles.oldest_age <= policy.limits.max_burst;
}

bool tried_enough(const WaitPolicy& policy) {
    return policy.crowded_looks >= kQuickRounds ||
           (policy.rounds >= kQuickRounds && policy.rounds_time >= kQuickTime) ||
           (policy.rounds >= kSlowRounds && policy.rounds_time >= kSlowTime);
}

/// While idle sessions stand in the way no round can be measured, but each look still shows whether
/// there would be a gap without them.
void note_look(WaitPolicy& policy, const Obstacles& obstacles) {
    if (is_busy(obstacles)) {
        policy.paused_looks = obstacles.idle > 0 ? policy.paused_looks + 1 : 0;
        return;
    }
    policy.paused_looks = 0;
    policy.crowded_looks = obstacles.holders > obstacles.idle ? policy.crowded_looks + 1 : 0;
}

/// The length of the burst to be ordered, or 0 for none.
Microseconds promising_burst(const WaitPolicy& policy, const Obstacles& obstacles, Timestamp now,
                             Microseconds time_left) {
    if (!is_busy(obstacles) || obstacles.autovacuum)
        return 0;
    const Microseconds wanted = burst_length(policy);
    const Microseconds length = std::min(wanted, time_left);
    if (length <= 0 || obstacles.oldest_age > length || now < policy.rest_end)
        return 0;
    const Experience seen = recall(policy);
    if (seen.fitting * 2 < seen.rounds || seen.longest_fitting > length)
        return 0;
    // With less time than this, one more round would leave too little for a burst.
    const bool last_chance = time_left <= wanted * 2;
    if (!last_chance && !tried_enough(policy))
        return 0;
    if (obstacles.idle > 0 && policy.paused_looks <= kPausedLooks)
        return 0;
    return length;
}

Microseconds back_off_length(std::uint32_t back_offs) {
    if (back_offs >= kLongBackOffAfter)
        return kLongBackOff;
    return std::min(kFirstBackOff << std::min(back_offs, 10U), kMaxBackOff);
}

Microseconds holder_wait_length(const WaitPolicy& policy, const Obstacles& obstacles) {
    const Microseconds length =
        std::min(kFirstHolderWait << std::min(policy.vain_sleeps, 10U), kMaxHolderWait);
    // The server makes an autovacuum worker give way once we have waited on it for
    // deadlock_timeout, and other holders may be waited for before it is its turn.
    if (obstacles.autovacuum)
        return length + std::max<Microseconds>(policy.limits.deadlock_timeout, 0);
    return length;
}

/// xorshift64.
std::uint64_t next_random(WaitPolicy& policy) {
    policy.random ^= policy.random << 13;
    policy.random ^= policy.random >> 7;
    policy.random ^= policy.random << 17;
    return policy.random;
}

/// Others were kept waiting for `spent`: forbids bursts for `factor` times as long, plus up to half
/// of that at random, so that two waiters do not stay in step.
void begin_rest(WaitPolicy& policy, Timestamp now, Microseconds spent, Microseconds factor) {
    const Microseconds rest = spent * factor;
    const auto jitter =
        static_cast<Microseconds>(next_random(policy) % (static_cast<std::uint64_t>(rest) / 2 + 1));
    policy.rest_end = std::max(policy.rest_end, now + rest + jitter);
}

void note_stay(WaitPolicy& policy, Microseconds spent) {
    policy.longest_stay = std::max(policy.longest_stay, spent);
    policy.total_stay += spent;
}

} // namespace

Microseconds burst_length(const WaitPolicy& policy) {
    const Microseconds longest = recall(policy).longest_fitting;
    const Microseconds wanted = std::max(longest + longest / 4, policy.shortest_burst);
    return std::max<Microseconds>(std::min(wanted, policy.limits.max_burst), 0);
}

WaitDecision decide(WaitPolicy& policy, const Obstacles& obstacles, Timestamp now) {
    ++policy.attempts;
    learn_from_sleep(policy, now);

    const Timestamp deadline = policy.limits.deadline;
    if (now >= deadline)
        return {WaitStep::give_up, 0};
    const Microseconds time_left = deadline == kUnknownTime ? INT64_MAX : deadline - now;

    if (obstacles.holders == 0) {
        policy.measuring = false;
        const Microseconds length = back_off_length(policy.back_offs++);
        return {WaitStep::back_off, std::min(length, time_left)};
    }
    policy.back_offs = 0;
    note_look(policy, obstacles);

    const Microseconds burst = promising_burst(policy, obstacles, now, time_left);
    if (burst > 0) {
        policy.measuring = false;
        ++policy.bursts;
        return {WaitStep::queue, burst};
    }

    if (!is_telling(policy, obstacles)) {
        policy.measuring = false;
    } else if (!policy.measuring) {
        policy.measuring = true;
        policy.round_start = now;
    }
    policy.sleep_start = now;
    policy.sleep_bound = std::min(holder_wait_length(policy, obstacles), time_left);
    return {WaitStep::wait_for_holders, policy.sleep_bound};
}

void burst_ended(WaitPolicy& policy, Timestamp now, Microseconds spent, bool got_locks) {
    spent = std::max<Microseconds>(spent, 0);
    note_stay(policy, spent);
    if (got_locks)
        return;
    const Microseconds factor =
        std::min(kRestFactor << std::min(policy.failures, 10U), kMaxRestFactor);
    begin_rest(policy, now, spent, factor);
    ++policy.failures;
    policy.shortest_burst = std::min(std::max(policy.shortest_burst, spent * 2),
                                     std::max(policy.limits.max_burst, kShortestBurst));
}

void kept_waiting(WaitPolicy& policy, Timestamp now, Microseconds spent) {
    spent = std::max<Microseconds>(spent, 0);
    note_stay(policy, spent);
    begin_rest(policy, now, spent, kRestFactor);
}

} // namespace lockguard::core
