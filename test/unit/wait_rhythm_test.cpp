#include "core/wait_rhythm.h"

#include <gtest/gtest.h>

namespace lockguard::core {
namespace {

constexpr Microseconds kMs = 1'000;
constexpr Microseconds kS = 1'000'000;
constexpr Timestamp kNow = 800'000'000 * kS;

WaitRhythm start(bool in_transaction, Microseconds max_burst = 500 * kMs,
                 Timestamp deadline = kUnknownTime) {
    return start_rhythm({.max_burst = max_burst, .deadlock_timeout = kS, .deadline = deadline},
                        in_transaction, kNow);
}

TEST(WaitRhythm, SleepsUntilThereIsSomethingElseToDo) {
    const WaitRhythm rhythm = start(false);
    EXPECT_EQ(longest_sleep(rhythm, kNow, 0, kUnknownTime), kS);
    EXPECT_EQ(longest_sleep(rhythm, kNow, 400 * kMs, kUnknownTime), 600 * kMs); // deadlock_timeout
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS - 1, kUnknownTime), 1);
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS, kUnknownTime), kLongestSleep);
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS, 300 * kMs), 300 * kMs);
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS, -5), kMs);
    EXPECT_FALSE(is_long_wait(rhythm, kS - 1));
    EXPECT_TRUE(is_long_wait(rhythm, kS));
}

TEST(WaitRhythm, SeesWhoComesToWaitBeforeHisPatienceEnds) {
    EXPECT_EQ(longest_sleep(start(true), kNow, kS, kUnknownTime), 450 * kMs);
    EXPECT_EQ(longest_sleep(start(true, 0), kNow, kS, kUnknownTime), kShortestInterval);
    WaitRhythm rhythm = start(true);
    EXPECT_TRUE(is_time_to_look_behind(rhythm, kNow));
    looked_behind(rhythm, kNow, 450 * kMs);
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS, kUnknownTime), 50 * kMs + 1);
    EXPECT_FALSE(is_time_to_look_behind(rhythm, kNow + 50 * kMs));
    EXPECT_TRUE(is_time_to_look_behind(rhythm, kNow + 50 * kMs + 1));
    looked_behind(rhythm, kNow, 600 * kMs); // which is too long by now
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS, kUnknownTime), kMs);
    looked_behind(rhythm, kNow, -1);
    EXPECT_EQ(longest_sleep(rhythm, kNow, kS, kUnknownTime), 450 * kMs);
    EXPECT_FALSE(has_kept_waiting_too_long(rhythm, 500 * kMs));
    EXPECT_TRUE(has_kept_waiting_too_long(rhythm, 500 * kMs + 1));
}

TEST(WaitRhythm, LooksBehindFourTimesInTheLongestBurst) {
    WaitRhythm rhythm = start(true);
    EXPECT_TRUE(is_time_to_look_behind(rhythm, kNow));
    EXPECT_FALSE(is_time_to_look_behind(rhythm, kNow + 125 * kMs - 1));
    EXPECT_TRUE(is_time_to_look_behind(rhythm, kNow + 125 * kMs));
    waits_for_another_lock(rhythm, kNow + 126 * kMs);
    EXPECT_TRUE(is_time_to_look_behind(rhythm, kNow + 126 * kMs));
    WaitRhythm strict = start(true, 1);
    EXPECT_TRUE(is_time_to_look_behind(strict, kNow));
    EXPECT_FALSE(is_time_to_look_behind(strict, kNow + kShortestInterval - 1));
}

TEST(WaitRhythm, ChecksForDeadlocksAfterDeadlockTimeoutAndThenAgain) {
    WaitRhythm rhythm = start(true);
    EXPECT_FALSE(is_time_for_deadlock_check(rhythm, kNow, kS - 1));
    EXPECT_TRUE(is_time_for_deadlock_check(rhythm, kNow + kS, kS));
    EXPECT_FALSE(is_time_for_deadlock_check(rhythm, kNow + 2 * kS - 1, 2 * kS));
    EXPECT_TRUE(is_time_for_deadlock_check(rhythm, kNow + 2 * kS, 2 * kS));
    rhythm.limits.deadlock_timeout = kMs;
    EXPECT_TRUE(is_time_for_deadlock_check(rhythm, kNow + 3 * kS, 3 * kS));
    EXPECT_FALSE(
        is_time_for_deadlock_check(rhythm, kNow + 3 * kS + kShortestCheckInterval - 1, 4 * kS));
}

TEST(WaitRhythm, RenewsItsOwnTransactionOnceASecond) {
    WaitRhythm rhythm = start(false);
    EXPECT_FALSE(is_time_to_renew(rhythm, kNow + kS - 1));
    EXPECT_TRUE(is_time_to_renew(rhythm, kNow + kS));
    renewed(rhythm, kNow + kS);
    EXPECT_FALSE(is_time_to_renew(rhythm, kNow + kS));
    EXPECT_TRUE(is_time_to_renew(rhythm, kNow + 2 * kS));
    EXPECT_FALSE(is_time_to_renew(start(true), kNow + 3600 * kS));
}

TEST(WaitRhythm, LooksForRepackWhereTheTransactionStays) {
    WaitRhythm block = start(true);
    EXPECT_TRUE(outlives_rounds(block, kNow));
    EXPECT_TRUE(is_time_to_look_for_repack(block, kNow));
    EXPECT_FALSE(is_time_to_look_for_repack(block, kNow + kRepackInterval - 1));
    EXPECT_TRUE(is_time_to_look_for_repack(block, kNow + kRepackInterval));
    // One of the statement's own that could not be renewed.
    WaitRhythm rhythm = start(false);
    const Timestamp late = kNow + kNotRenewed * kLongestSleep;
    EXPECT_FALSE(outlives_rounds(rhythm, late));
    EXPECT_FALSE(is_time_to_look_for_repack(rhythm, late));
    EXPECT_TRUE(outlives_rounds(rhythm, late + 1));
    EXPECT_TRUE(is_time_to_look_for_repack(rhythm, late + 1));
}

TEST(WaitRhythm, SleepsInARingUntilTheCheckOfWhoHasClosedIt) {
    const WaitRhythm rhythm = start(true);
    const RingSleep early = sleep_in_ring(rhythm, kNow, 200 * kMs);
    EXPECT_EQ(early.duration, 910 * kMs);
    EXPECT_FALSE(early.check_at_once);
    const RingSleep fresh = sleep_in_ring(rhythm, kNow, 0);
    EXPECT_EQ(fresh.duration, kLongestSleep);
    const RingSleep overdue = sleep_in_ring(rhythm, kNow, 1'110 * kMs);
    EXPECT_EQ(overdue.duration, kLongestSleep);
    EXPECT_TRUE(overdue.check_at_once);
    // Not beyond the deadline, but for a moment.
    EXPECT_EQ(sleep_in_ring(start(true, kMs, kNow + 50 * kMs), kNow, 0).duration, 50 * kMs);
    EXPECT_EQ(sleep_in_ring(start(true, kMs, kNow), kNow, 0).duration, kMs);
}

TEST(WaitRhythm, RestsFourTimesAsLongAsOthersWereKeptWaiting) {
    WaitRhythm rhythm = start(false);
    EXPECT_LE(rest_left(rhythm, kNow), 0);
    ran_in_vain(rhythm, kNow, 10 * kMs);
    EXPECT_EQ(rest_left(rhythm, kNow), 40 * kMs);
    EXPECT_EQ(rest_left(rhythm, kNow + 39 * kMs), kMs);
    EXPECT_LE(rest_left(rhythm, kNow + 40 * kMs), 0);
    ran_in_vain(rhythm, kNow, -1);
    EXPECT_LE(rest_left(rhythm, kNow), 0);
    WaitRhythm bounded = start(false, kMs, kNow + kS);
    ran_in_vain(bounded, kNow, kS);
    EXPECT_EQ(rest_left(bounded, kNow), kS);
}

} // namespace
} // namespace lockguard::core
