#include "core/wait_policy.h"

#include <algorithm>
#include <span>

namespace lockguard::core {
namespace {

using Round = WaitPolicy::Round;

/// What the rounds remembered say about bursts.
struct Experience {
    std::uint32_t rounds;         // but for those of somebody else's kind
    std::uint32_t fitting;        // of these: a burst of max_burst would have sufficed
    std::uint32_t ends;           // of transactions in those
    Microseconds time;            // that all of the rounds took together
    Microseconds longest_fitting; // 0 where there is none
    Microseconds oldest;          // that holders become, as far as most of the rounds tell
    Microseconds oldest_fitting;  // in those that fit
};

/// How old the oldest holder was when it ended, in most of the rounds: the lower median, so that of
/// two rounds the one without a session that has lasted for minutes counts.
Microseconds usual_oldest(const Round* rounds, std::uint32_t count) {
    std::array<Microseconds, WaitPolicy::kRemembered> oldest{};
    for (std::uint32_t i = 0; i < count; ++i)
        oldest[i] = rounds[i].oldest;
    const std::span known(oldest.data(), std::min<std::size_t>(count, oldest.size()));
    std::ranges::sort(known);
    return count == 0 ? 0 : oldest[(count - 1) / 2];
}

Experience recall(const WaitPolicy& policy) {
    Experience seen{};
    const std::uint32_t remembered = std::min(policy.rounds, WaitPolicy::kRemembered);
    const Microseconds usual = usual_oldest(policy.seen.data(), remembered);
    for (std::uint32_t i = 0; i < remembered; ++i) {
        const Round& round = policy.seen[i];
        if (round.oldest / kFarOlder > usual + kAgeSlack)
            continue;
        ++seen.rounds;
        seen.time += round.took;
        seen.oldest = std::max(seen.oldest, round.oldest);
        if (round.took > policy.limits.max_burst)
            continue;
        ++seen.fitting;
        seen.ends += round.ends;
        seen.longest_fitting = std::max(seen.longest_fitting, round.took);
        seen.oldest_fitting = std::max(seen.oldest_fitting, round.oldest);
    }
    return seen;
}

Microseconds since(Timestamp start, Timestamp now) {
    return now > start ? now - start : 0;
}

void remember(WaitPolicy& policy, const Round& round) {
    policy.seen[policy.rounds % WaitPolicy::kRemembered] = round;
    ++policy.rounds;
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
    const bool too_long = took > policy.limits.max_burst;
    if (!holders_ended && !too_long)
        return;
    policy.measuring = false;
    // That a session stays idle for an hour says nothing about the others.
    if (too_long && policy.old_holder)
        return;
    policy.round.took = took;
    policy.round.oldest = std::max(policy.round.oldest, too_long ? took : 0);
    remember(policy, policy.round);
}

/// While one session stays, what the others would need can't be measured; but where all of them are
/// new since the look before, the others of that look have ended. How long one would wait for the
/// last of many to end is, on average, how long ago the first of them began.
void learn_from_look(WaitPolicy& policy, const HoldersSeen& present, Timestamp now) {
    const Microseconds elapsed = since(policy.sleep_start, now);
    if (policy.vain_sleeps == 0 || present.holders < 2 || present.oldest_age < elapsed ||
        present.next_age >= elapsed)
        return;
    remember(policy,
             {.took = present.next_age, .oldest = present.next_age, .ends = present.holders - 1});
}

void measure_from(WaitPolicy& policy, const HoldersSeen& present, Timestamp now) {
    // Of whom nothing is known, and who gives way to a patient waiter, tells nothing about bursts.
    if (present.autovacuum || present.oldest_age == kUnknownTime) {
        policy.measuring = false;
    } else if (!policy.measuring) {
        policy.measuring = true;
        policy.round_start = now;
        policy.old_holder = present.oldest_age > policy.limits.max_burst;
        policy.round = {.took = 0, .oldest = present.oldest_age, .ends = 0};
    }
}

bool saw_enough(const Experience& seen, Microseconds max_burst) {
    if (seen.rounds >= kManyRounds)
        return true;
    // One that lasted so long before it came to this lock may not be like the next.
    if (seen.oldest > max_burst)
        return false;
    return seen.ends >= kManyEnds || (seen.rounds >= kFewRounds && seen.time >= kSlowTime);
}

bool is_like_those_seen(const Experience& seen, Microseconds age, Microseconds length) {
    if (age == kUnknownTime)
        return false;
    const Microseconds usual = seen.rounds == 0 ? length : seen.oldest;
    return age <= usual || (seen.rounds > 0 && age - usual <= std::max(usual / 4, kAgeSlack));
}

/// The length of the burst to be ordered, or 0 for none.
Microseconds promising_burst(const WaitPolicy& policy, const HoldersSeen& present, Timestamp now,
                             Microseconds time_left) {
    if (present.autovacuum)
        return 0;
    const Experience seen = recall(policy);
    const Microseconds wanted = burst_length(policy);
    const Microseconds length = std::min(wanted, time_left);
    if (length <= 0 || now < policy.rest_end ||
        !is_like_those_seen(seen, present.oldest_age, length))
        return 0;
    if (seen.fitting * 2 < seen.rounds || seen.longest_fitting > length)
        return 0;
    // With less time than this, one more round would leave too little for a burst.
    const bool last_chance = time_left <= wanted * 2;
    return last_chance || saw_enough(seen, policy.limits.max_burst) ? length : 0;
}

Microseconds back_off_length(std::uint32_t back_offs) {
    if (back_offs >= kLongBackOffAfter)
        return kLongBackOff;
    return std::min(kFirstBackOff << std::min(back_offs, 10U), kMaxBackOff);
}

Microseconds holder_wait_length(const WaitPolicy& policy, const HoldersSeen& present) {
    const Microseconds length =
        std::min(kFirstHolderWait << std::min(policy.vain_sleeps, 10U), kMaxHolderWait);
    // The server makes an autovacuum worker give way once we have waited on it for
    // deadlock_timeout, and other holders may be waited for before it is its turn.
    if (present.autovacuum)
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
    const Experience seen = recall(policy);
    const Microseconds longest = seen.longest_fitting;
    const bool age_tells = seen.oldest_fitting <= longest * kLongerByAge;
    const Microseconds by_age = age_tells ? seen.oldest_fitting + seen.oldest_fitting / 8 : 0;
    const Microseconds wanted = std::max({longest + longest / 4, by_age, policy.shortest_burst});
    return std::max<Microseconds>(std::min(wanted, policy.limits.max_burst), 0);
}

WaitDecision decide(WaitPolicy& policy, const HoldersSeen& present, Timestamp now) {
    ++policy.attempts;
    learn_from_sleep(policy, now);

    const Timestamp deadline = policy.limits.deadline;
    if (now >= deadline)
        return {WaitStep::give_up, 0};
    const Microseconds time_left = deadline == kUnknownTime ? INT64_MAX : deadline - now;

    if (present.holders == 0) {
        policy.measuring = false;
        const Microseconds length = back_off_length(policy.back_offs++);
        return {WaitStep::back_off, std::min(length, time_left)};
    }
    policy.back_offs = 0;
    learn_from_look(policy, present, now);

    const Microseconds burst = promising_burst(policy, present, now, time_left);
    if (burst > 0) {
        policy.measuring = false;
        ++policy.bursts;
        return {WaitStep::queue, burst};
    }

    measure_from(policy, present, now);
    policy.sleep_start = now;
    policy.sleep_bound = std::min(holder_wait_length(policy, present), time_left);
    return {WaitStep::wait_for_holders, policy.sleep_bound};
}

void holder_ended(WaitPolicy& policy, Microseconds age) {
    ++policy.round.ends;
    policy.round.oldest = std::max(policy.round.oldest, age);
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
