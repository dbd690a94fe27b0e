#include "core/wait_rhythm.h"

#include <algorithm>

namespace lockguard::core {

Microseconds longest_sleep(const WaitRhythm& rhythm, Timestamp now, Microseconds waited,
                           Microseconds until_due) {
    Microseconds longest = kLongestSleep;
    if (rhythm.in_transaction)
        longest = std::min(longest, std::max(rhythm.limits.max_burst * 9 / 10, kShortestInterval));
    if (rhythm.patience_end != kUnknownTime)
        longest = std::min(longest, std::max(rhythm.patience_end - now, kMillisecond));
    // Something happens at deadlock_timeout: autovacuum is cancelled, and a line is logged.
    const Microseconds until_then = rhythm.limits.deadlock_timeout - waited;
    if (until_then > 0)
        longest = std::min(longest, until_then);
    return std::min(longest, std::max(until_due, kMillisecond));
}

bool is_long_wait(const WaitRhythm& rhythm, Microseconds waited) {
    return waited >= rhythm.limits.deadlock_timeout;
}

bool is_time_to_look_behind(WaitRhythm& rhythm, Timestamp now) {
    if (now < rhythm.next_look_behind)
        return false;
    rhythm.next_look_behind = now + std::max(rhythm.limits.max_burst / 4, kShortestInterval);
    return true;
}

bool is_time_for_deadlock_check(WaitRhythm& rhythm, Timestamp now, Microseconds waited) {
    if (!is_long_wait(rhythm, waited) || now < rhythm.next_deadlock_check)
        return false;
    // And then again: others may be awake just then.
    rhythm.next_deadlock_check =
        now + std::max(rhythm.limits.deadlock_timeout, kShortestCheckInterval);
    return true;
}

bool is_time_to_look_for_repack(WaitRhythm& rhythm, Timestamp now) {
    if (!outlives_rounds(rhythm, now) || now < rhythm.next_look_for_repack)
        return false;
    rhythm.next_look_for_repack = now + kRepackInterval;
    return true;
}

void waits_for_another_lock(WaitRhythm& rhythm, Timestamp now) {
    rhythm.next_look_behind = now;
}

void looked_behind(WaitRhythm& rhythm, Timestamp now, Microseconds longest) {
    rhythm.patience_end = kUnknownTime;
    if (longest < 0)
        return;
    // The next look is to find that he has waited for too long: not before, nor much later.
    rhythm.patience_end = now + std::max<Microseconds>(rhythm.limits.max_burst - longest, 0) + 1;
    rhythm.next_look_behind = std::min(rhythm.next_look_behind, rhythm.patience_end);
}

bool has_kept_waiting_too_long(const WaitRhythm& rhythm, Microseconds longest) {
    return longest > rhythm.limits.max_burst;
}

RingSleep sleep_in_ring(const WaitRhythm& rhythm, Timestamp now, Microseconds closed_for) {
    // A tenth more, because his timer may be late.
    Microseconds duration =
        rhythm.limits.deadlock_timeout * 11 / 10 + kShortestInterval - closed_for;
    const bool overdue = duration <= 0;
    if (overdue)
        duration = kLongestSleep;
    if (rhythm.limits.deadline != kUnknownTime)
        duration = std::min(duration, rhythm.limits.deadline - now);
    return {std::clamp(duration, kMillisecond, kLongestSleep), overdue};
}

bool is_time_to_renew(const WaitRhythm& rhythm, Timestamp now) {
    return !rhythm.in_transaction && now - rhythm.transaction_began >= kLongestSleep;
}

void renewed(WaitRhythm& rhythm, Timestamp now) {
    rhythm.transaction_began = now;
}

bool outlives_rounds(const WaitRhythm& rhythm, Timestamp now) {
    return rhythm.in_transaction || now - rhythm.transaction_began > kNotRenewed * kLongestSleep;
}

void ran_in_vain(WaitRhythm& rhythm, Timestamp now, Microseconds kept_waiting) {
    rhythm.rest_end = now + kRestAfterVainRun * std::max<Microseconds>(kept_waiting, 0);
}

Microseconds rest_left(const WaitRhythm& rhythm, Timestamp now) {
    return std::min(rhythm.rest_end, rhythm.limits.deadline) - now;
}

} // namespace lockguard::core
