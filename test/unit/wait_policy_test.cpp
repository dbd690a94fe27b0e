#include "core/wait_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <type_traits>

namespace lockguard::core {
namespace {

constexpr Microseconds kMs = 1'000;
constexpr Microseconds kS = 1'000'000;
constexpr Timestamp kStart = 800'000'000 * kS;

Obstacles active(std::uint32_t holders, Microseconds oldest_age) {
    return {.holders = holders,
            .idle = 0,
            .longest_idle = 0,
            .oldest_age = oldest_age,
            .autovacuum = false};
}

Obstacles idle_among(std::uint32_t holders, Microseconds longest_idle) {
    return {.holders = holders,
            .idle = 1,
            .longest_idle = longest_idle,
            .oldest_age = longest_idle,
            .autovacuum = false};
}

constexpr Obstacles kNobody{};

/// A wait with a clock that the test drives.
class Wait {
  public:
    explicit Wait(Microseconds max_burst = 500 * kMs, Microseconds max_wait = 0,
                  std::uint64_t seed = 1)
        : policy(start_wait({.max_burst = max_burst,
                             .deadlock_timeout = kS,
                             .deadline = max_wait > 0 ? kStart + max_wait : kUnknownTime},
                            seed)) {}

    WaitDecision decide(const Obstacles& obstacles) { return core::decide(policy, obstacles, now); }

    /// Expects to be told to wait for the holders, and comes back after `took`, when they are gone.
    void round(const Obstacles& obstacles, Microseconds took) {
        const WaitDecision decision = decide(obstacles);
        ASSERT_EQ(decision.step, WaitStep::wait_for_holders);
        ASSERT_LT(took, decision.duration);
        now += took;
    }

    void rounds(std::initializer_list<Microseconds> lengths) {
        for (const Microseconds took : lengths)
            round(active(3, took), took);
    }

    /// Rounds, each as long as the transactions, until a burst is due; returns it.
    WaitDecision next_burst(Microseconds length) {
        for (int i = 0; i < 1'000'000; ++i) {
            const WaitDecision decision = decide(active(3, length));
            if (decision.step == WaitStep::queue)
                return decision;
            now += length;
        }
        ADD_FAILURE() << "no burst";
        return {WaitStep::give_up, 0};
    }

    void fail_burst(Microseconds spent) {
        now += spent;
        burst_ended(policy, now, spent, false);
    }

    WaitPolicy policy;
    Timestamp now = kStart;
};

void expect_burst(const WaitDecision& decision, Microseconds length) {
    EXPECT_EQ(decision.step, WaitStep::queue);
    EXPECT_EQ(decision.duration, length);
}

void expect_wait(const WaitDecision& decision, Microseconds length) {
    EXPECT_EQ(decision.step, WaitStep::wait_for_holders);
    EXPECT_EQ(decision.duration, length);
}

TEST(WaitPolicy, IsPlainData) {
    static_assert(std::is_trivially_destructible_v<WaitPolicy>);
    constexpr WaitPolicy policy = start_wait({500 * kMs, kS, kUnknownTime}, 7);
    static_assert(policy.attempts == 0 && policy.bursts == 0 && policy.longest_stay == 0);
    // Whatever the seed, the generator does not stick at 0.
    static_assert(start_wait({}, UINT64_MAX).random != 0);
    static_assert(start_wait({}, 0).random != 0);
}

TEST(WaitPolicy, FirstWaitsForTheHolders) {
    Wait wait;
    expect_wait(wait.decide(active(1, 5 * kMs)), kFirstHolderWait);
    EXPECT_EQ(wait.policy.attempts, 1U);
    EXPECT_EQ(wait.policy.bursts, 0U);
}

TEST(WaitPolicy, BurstsAfterFiveQuickRounds) {
    Wait wait;
    wait.rounds({20 * kMs, 18 * kMs, 19 * kMs, 20 * kMs, 20 * kMs});
    expect_burst(wait.decide(active(32, 19 * kMs)), 25 * kMs);
    EXPECT_EQ(wait.policy.attempts, 6U);
    EXPECT_EQ(wait.policy.bursts, 1U);
}

TEST(WaitPolicy, FiveRoundsThatTookNoTimeAreNotEnough) {
    Wait wait;
    wait.rounds({9 * kMs, 9 * kMs, 9 * kMs, 9 * kMs, 9 * kMs}); // 45 ms
    wait.round(active(3, kMs), 5 * kMs);                        // 50 ms
    EXPECT_EQ(wait.decide(active(3, kMs)).step, WaitStep::queue);
}

TEST(WaitPolicy, TwoSlowRoundsAreEnough) {
    Wait wait(5 * kS);
    wait.round(active(3, 0), 249 * kMs);
    wait.round(active(3, 0), 249 * kMs);
    wait.round(active(3, 0), 2 * kMs); // 500 ms
    EXPECT_EQ(wait.decide(active(3, 0)).step, WaitStep::queue);

    Wait one(5 * kS);
    expect_wait(one.decide(active(3, 0)), 250 * kMs);
    one.now += 250 * kMs;
    expect_wait(one.decide(active(3, 250 * kMs)), 500 * kMs);
    one.now += 400 * kMs; // one round of 650 ms, in two sleeps
    EXPECT_EQ(one.decide(active(3, 0)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(one.policy.rounds, 1U);
    EXPECT_EQ(one.policy.needed[0], 650 * kMs);
    one.now += kMs;
    EXPECT_EQ(one.decide(active(3, 0)).step, WaitStep::queue);
}

TEST(WaitPolicy, BurstIsAQuarterLongerThanTheLongestRound) {
    Wait wait;
    wait.rounds({20 * kMs, 160 * kMs, 40 * kMs, 30 * kMs, 20 * kMs});
    expect_burst(wait.decide(active(32, 19 * kMs)), 200 * kMs);
}

TEST(WaitPolicy, BurstNeverExceedsItsLimit) {
    Wait wait;
    wait.rounds({240 * kMs, 240 * kMs, 240 * kMs});
    expect_burst(wait.decide(active(32, 19 * kMs)), 300 * kMs);

    Wait strict(220 * kMs);
    strict.rounds({200 * kMs, 200 * kMs, 200 * kMs});
    expect_burst(strict.decide(active(32, 19 * kMs)), 220 * kMs);

    Wait tiny(10 * kMs);
    tiny.rounds({10 * kMs, 10 * kMs, 10 * kMs, 10 * kMs, 10 * kMs});
    expect_burst(tiny.decide(active(32, 9 * kMs)), 10 * kMs);
    tiny.fail_burst(10 * kMs);
    expect_burst(tiny.next_burst(9 * kMs), 10 * kMs);
}

TEST(WaitPolicy, ForgetsOldRounds) {
    Wait wait;
    wait.rounds({200 * kMs});
    for (std::uint32_t i = 0; i + 1 < WaitPolicy::kRemembered; ++i)
        wait.round(active(3, 300 * kMs), 20 * kMs); // too old for a burst, but short to wait for
    EXPECT_EQ(burst_length(wait.policy), 250 * kMs);
    wait.round(active(3, 300 * kMs), 20 * kMs);
    expect_burst(wait.decide(active(3, 20 * kMs)), 25 * kMs);
}

TEST(WaitPolicy, NeverQueuesWithoutALimitAboveZero) {
    for (const Microseconds limit : {Microseconds{0}, -kMs}) {
        Wait wait(limit, 10 * kS);
        while (wait.now < kStart + 10 * kS) {
            EXPECT_EQ(wait.decide(active(3, 0)).step, WaitStep::wait_for_holders);
            wait.now += 20 * kMs;
        }
        EXPECT_EQ(wait.policy.bursts, 0U);
        EXPECT_EQ(burst_length(wait.policy), 0);
    }
}

TEST(WaitPolicy, NeverQueuesBehindAnIdleSession) {
    Wait wait;
    wait.rounds({20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs});
    for (const Microseconds idle : {kBetweenStatements + 1, 5 * kS, kUnknownTime}) {
        EXPECT_EQ(wait.decide(idle_among(32, idle)).step, WaitStep::wait_for_holders);
        wait.now += kMs;
    }
    // However young its transaction is.
    Obstacles young = idle_among(32, kBetweenStatements + 1);
    young.oldest_age = 15 * kMs;
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(wait.decide(young).step, WaitStep::wait_for_holders);
        wait.now += kMs;
    }
    // The moment it is gone, what was learned before still counts.
    expect_burst(wait.decide(active(32, 19 * kMs)), 25 * kMs);
}

TEST(WaitPolicy, IdleSessionsTeachNothingAboutBursts) {
    Wait wait;
    for (int i = 0; i < 20; ++i)
        wait.round(idle_among(1, 3600 * kS), 200 * kMs);
    EXPECT_EQ(wait.policy.rounds, 0U);
    EXPECT_EQ(wait.decide(active(3, 5 * kMs)).step, WaitStep::wait_for_holders);
}

TEST(WaitPolicy, LooksAtOthersBesidesTheIdleSessionCountAsRounds) {
    Wait wait;
    for (int i = 0; i < 4; ++i)
        EXPECT_EQ(wait.decide(idle_among(32, 3600 * kS)).step, WaitStep::wait_for_holders);
    Wait four = wait;
    EXPECT_EQ(four.decide(active(32, 19 * kMs)).step, WaitStep::wait_for_holders);
    Wait gap = wait;
    EXPECT_EQ(gap.decide(idle_among(1, 3600 * kS)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(gap.decide(idle_among(32, 3600 * kS)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(gap.decide(active(32, 19 * kMs)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(wait.decide(idle_among(32, 3600 * kS)).step, WaitStep::wait_for_holders);
    expect_burst(wait.decide(active(32, 19 * kMs)), 25 * kMs);
}

TEST(WaitPolicy, PrefersAMomentWithoutPausesButDoesNotInsist) {
    Wait wait;
    wait.rounds({20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs});
    const Obstacles paused{.holders = 32,
                           .idle = 4,
                           .longest_idle = kBetweenStatements,
                           .oldest_age = 19 * kMs,
                           .autovacuum = false};
    Wait lucky = wait;
    for (std::uint32_t i = 0; i < kPausedLooks; ++i)
        wait.round(paused, 20 * kMs);
    Wait interrupted = wait;
    expect_burst(wait.decide(paused), 25 * kMs);

    // A session that is really idle starts the count again.
    interrupted.round(idle_among(32, kS), 20 * kMs);
    interrupted.round(paused, 20 * kMs);

    lucky.round(paused, 20 * kMs);
    expect_burst(lucky.decide(active(32, 19 * kMs)), 25 * kMs);
}

TEST(WaitPolicy, NeverQueuesBehindATransactionOlderThanTheBurst) {
    Wait wait;
    wait.rounds({20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs});
    for (const Microseconds age : {25 * kMs + 1, kS, 3600 * kS, kUnknownTime}) {
        EXPECT_EQ(wait.decide(active(2, age)).step, WaitStep::wait_for_holders);
        wait.now += kMs;
    }
    expect_burst(wait.decide(active(2, 25 * kMs)), 25 * kMs);
}

TEST(WaitPolicy, OldTransactionsTeachNothingAboutBursts) {
    Wait wait;
    wait.round(active(3, 500 * kMs + 1), 200 * kMs);
    wait.round(active(3, 500 * kMs), 100 * kMs);
    EXPECT_EQ(wait.decide(kNobody).step, WaitStep::back_off);
    EXPECT_EQ(wait.policy.rounds, 1U);
    EXPECT_EQ(wait.policy.needed[0], 100 * kMs);
}

TEST(WaitPolicy, DoesNotQueueWhereMostRoundsOutlastEveryBurst) {
    Wait wait;
    // Young each time it is looked at, but each lasts for 2 s.
    for (int i = 0; i < 100; ++i) {
        EXPECT_EQ(wait.decide(active(3, kMs)).step, WaitStep::wait_for_holders);
        wait.now += 250 * kMs;
        EXPECT_EQ(wait.decide(active(3, 251 * kMs)).step, WaitStep::wait_for_holders);
        wait.now += 500 * kMs;
        EXPECT_EQ(wait.decide(active(3, 751 * kMs)).step, WaitStep::wait_for_holders);
        wait.now += 990 * kMs;
    }
    EXPECT_EQ(wait.policy.bursts, 0U);
    // Four of the last eight were short: an even chance.
    wait.rounds({20 * kMs, 20 * kMs, 20 * kMs});
    EXPECT_EQ(wait.decide(active(3, kMs)).step, WaitStep::wait_for_holders);
    wait.now += 20 * kMs;
    expect_burst(wait.decide(active(3, kMs)), 25 * kMs);
}

TEST(WaitPolicy, RoundsOfExactlyTheLimitFit) {
    Wait wait(100 * kMs);
    wait.rounds({100 * kMs, 100 * kMs, 100 * kMs, 100 * kMs, 100 * kMs});
    expect_burst(wait.decide(active(3, kMs)), 100 * kMs);
    Wait over(100 * kMs);
    for (int i = 0; i < 10; ++i)
        over.round(active(3, kMs), 100 * kMs + 1);
    EXPECT_EQ(over.policy.rounds, 9U); // the tenth is not looked at yet
    EXPECT_EQ(over.policy.bursts, 0U);
}

TEST(WaitPolicy, BurstsBecomeLongerAndRarerWithEachFailure) {
    Wait wait;
    Microseconds expected = 25 * kMs;
    Microseconds factor = kRestFactor;
    for (int failure = 0; failure < 12; ++failure) {
        const WaitDecision burst = wait.next_burst(20 * kMs);
        expect_burst(burst, expected);
        wait.fail_burst(burst.duration);
        const Timestamp failed = wait.now;

        // No burst before the rest is over, and one at the first look after it.
        const Microseconds rest = wait.policy.rest_end - failed;
        EXPECT_GE(rest, burst.duration * factor);
        EXPECT_LE(rest, burst.duration * factor * 3 / 2);
        Wait other = wait;
        other.now = wait.policy.rest_end - 1;
        EXPECT_EQ(other.decide(active(3, 20 * kMs)).step, WaitStep::wait_for_holders);
        other = wait;
        other.now = wait.policy.rest_end;
        EXPECT_EQ(other.decide(active(3, 20 * kMs)).step, WaitStep::queue);

        expected = std::min(expected * 2, 500 * kMs);
        factor = std::min(factor * 2, kMaxRestFactor);
    }
    EXPECT_EQ(wait.policy.bursts, 12U);
    EXPECT_EQ(wait.policy.failures, 12U);
    EXPECT_EQ(wait.policy.longest_stay, 500 * kMs);
    EXPECT_EQ(wait.policy.total_stay, (25 + 50 + 100 + 200 + 400 + 7 * 500) * kMs);
}

TEST(WaitPolicy, RestsDifferBetweenSeeds) {
    Wait first(500 * kMs, 0, 1);
    Wait second(500 * kMs, 0, 2);
    for (Wait* wait : {&first, &second})
        wait->fail_burst(wait->next_burst(20 * kMs).duration);
    EXPECT_EQ(first.now, second.now);
    EXPECT_NE(first.policy.rest_end, second.policy.rest_end);
}

TEST(WaitPolicy, HarmIsBoundedOverHours) {
    // Everything promises success, and every burst fails.
    Wait wait;
    Microseconds first_minute = 0;
    while (wait.now < kStart + 4 * 3600 * kS) {
        if (wait.now < kStart + 60 * kS)
            first_minute = wait.policy.total_stay;
        // At every moment: at most a fifth of the time in the queue, but for the burst just ended.
        EXPECT_LE(wait.policy.total_stay * 5, wait.now - kStart + 5 * 500 * kMs);
        wait.fail_burst(wait.next_burst(20 * kMs).duration);
    }
    EXPECT_LE(first_minute, 6 * kS);
    EXPECT_LE(wait.policy.total_stay * 100, wait.now - kStart);
    EXPECT_GE(wait.policy.bursts, 100U); // and it has not given up
}

TEST(WaitPolicy, ASuccessfulBurstIsOnlyCounted) {
    Wait wait;
    const WaitDecision burst = wait.next_burst(20 * kMs);
    wait.now += 18 * kMs;
    burst_ended(wait.policy, wait.now, 18 * kMs, true);
    EXPECT_EQ(wait.policy.longest_stay, 18 * kMs);
    EXPECT_EQ(wait.policy.failures, 0U);
    expect_burst(wait.decide(active(3, 20 * kMs)), burst.duration);
}

TEST(WaitPolicy, RestsAfterLocksThatHadToBeGivenBack) {
    Wait wait;
    expect_burst(wait.next_burst(20 * kMs), 25 * kMs);
    burst_ended(wait.policy, wait.now, 0, true);
    wait.now += 100 * kMs;
    kept_waiting(wait.policy, wait.now, 100 * kMs);
    EXPECT_EQ(wait.policy.longest_stay, 100 * kMs);
    EXPECT_GE(wait.policy.rest_end, wait.now + 400 * kMs);
    EXPECT_LE(wait.policy.rest_end, wait.now + 600 * kMs);
    wait.round(active(3, 20 * kMs), 20 * kMs);
    EXPECT_EQ(wait.decide(kNobody).step, WaitStep::back_off);
    wait.now = wait.policy.rest_end;
    expect_burst(wait.decide(active(3, 20 * kMs)), 25 * kMs);
    // A shorter stay does not cut the rest after a longer one.
    const Timestamp rest_end = wait.now + 10 * kS;
    wait.policy.rest_end = rest_end;
    kept_waiting(wait.policy, wait.now, kMs);
    EXPECT_EQ(wait.policy.rest_end, rest_end);
}

TEST(WaitPolicy, BacksOffWhereNobodyHoldsTheLock) {
    Wait wait;
    for (const Microseconds expected : {1, 2, 4, 8, 10, 10, 10}) {
        const WaitDecision decision = wait.decide(kNobody);
        EXPECT_EQ(decision.step, WaitStep::back_off);
        EXPECT_EQ(decision.duration, expected * kMs);
        wait.now += decision.duration;
    }
    wait.round(active(1, kMs), kMs);
    EXPECT_EQ(wait.decide(kNobody).duration, kMs);
}

TEST(WaitPolicy, LongBackOffIsCheap) {
    Wait wait;
    while (wait.now < kStart + 60 * kS) {
        const WaitDecision decision = wait.decide(kNobody);
        ASSERT_EQ(decision.step, WaitStep::back_off);
        ASSERT_LE(decision.duration, kLongBackOff);
        wait.now += decision.duration;
    }
    // 0.1 ms each make 0.2 % of a core at 1 200 wake-ups; the first second has its 100.
    EXPECT_LE(wait.policy.attempts, 1'300U);
}

TEST(WaitPolicy, BackOffsAreNoRounds) {
    Wait wait;
    for (int i = 0; i < 100; ++i)
        wait.now += wait.decide(kNobody).duration;
    EXPECT_EQ(wait.policy.rounds, 0U);
    EXPECT_EQ(wait.decide(active(3, kMs)).step, WaitStep::wait_for_holders);
    // A round that ends with nobody to be seen is one.
    wait.now += 7 * kMs;
    EXPECT_EQ(wait.decide(kNobody).step, WaitStep::back_off);
    EXPECT_EQ(wait.policy.rounds, 1U);
    EXPECT_EQ(wait.policy.needed[0], 7 * kMs);
}

TEST(WaitPolicy, SleepsGrowWhileTheHoldersStay) {
    Wait wait;
    for (const Microseconds expected : {250, 500, 1000, 1000, 1000}) {
        const WaitDecision decision = wait.decide(idle_among(1, 3600 * kS));
        expect_wait(decision, expected * kMs);
        wait.now += decision.duration;
    }
    wait.round(idle_among(1, 3600 * kS), 300 * kMs);
    expect_wait(wait.decide(active(1, kMs)), 250 * kMs);
}

TEST(WaitPolicy, IdleWaitIsCheap) {
    Wait wait;
    while (wait.now < kStart + 60 * kS)
        wait.now += wait.decide(idle_among(1, 3600 * kS)).duration;
    EXPECT_LE(wait.policy.attempts, 62U);
}

TEST(WaitPolicy, OutwaitsTheDeadlockTimeoutOfAutovacuum) {
    for (const Microseconds age : {kMs, 3600 * kS}) {
        Wait wait;
        wait.rounds({20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs});
        Obstacles vacuum = active(1, age);
        vacuum.autovacuum = true;
        for (const Microseconds expected : {1250, 1500, 2000, 2000}) {
            const WaitDecision decision = wait.decide(vacuum);
            expect_wait(decision, expected * kMs);
            wait.now += decision.duration;
        }
        EXPECT_EQ(wait.policy.rounds, 5U);
    }
}

TEST(WaitPolicy, GivesUpExactlyAtTheDeadline) {
    for (const Obstacles& obstacles :
         {active(3, kMs), active(3, 3600 * kS), idle_among(3, kUnknownTime), kNobody}) {
        Wait wait(500 * kMs, 2 * kS);
        const Timestamp deadline = kStart + 2 * kS;
        for (;;) {
            const WaitDecision decision = wait.decide(obstacles);
            if (decision.step == WaitStep::give_up) {
                EXPECT_EQ(decision.duration, 0);
                break;
            }
            ASSERT_LT(wait.now, deadline);
            ASSERT_GT(decision.duration, 0);
            ASSERT_LE(wait.now + decision.duration, deadline);
            wait.now += decision.duration;
            if (decision.step == WaitStep::queue)
                burst_ended(wait.policy, wait.now, decision.duration, false);
        }
        EXPECT_EQ(wait.now, deadline);
        wait.now += kS;
        EXPECT_EQ(wait.decide(obstacles).step, WaitStep::give_up);
    }
}

TEST(WaitPolicy, OneMicrosecondBeforeTheDeadlineIsNotTheDeadline) {
    Wait wait(500 * kMs, kS);
    wait.now = kStart + kS - 1;
    expect_wait(wait.decide(idle_among(3, kS)), 1);
    EXPECT_EQ(wait.decide(kNobody).duration, 1);
}

TEST(WaitPolicy, TakesTheLastChanceBeforeTheDeadline) {
    // No time for five rounds of 20 ms and a burst.
    for (const Microseconds max_wait : {91 * kMs, 90 * kMs}) {
        Wait wait(500 * kMs, max_wait);
        wait.round(active(32, 19 * kMs), 20 * kMs);
        wait.round(active(32, 19 * kMs), 20 * kMs);
        EXPECT_EQ(wait.decide(active(32, 19 * kMs)).step,
                  max_wait == 91 * kMs ? WaitStep::wait_for_holders : WaitStep::queue);
    }

    // So short a limit that there is time for nothing else.
    Wait at_once(500 * kMs, 30 * kMs);
    expect_burst(at_once.decide(active(32, 19 * kMs)), 25 * kMs);
    // Neither idle sessions nor old transactions are put up with, though.
    Wait idle(500 * kMs, 30 * kMs);
    expect_wait(idle.decide(idle_among(32, kS)), 30 * kMs);
    Wait old(500 * kMs, 30 * kMs);
    expect_wait(old.decide(active(32, 26 * kMs)), 30 * kMs);
}

TEST(WaitPolicy, DoesNotQueueWhereTheDeadlineCutsTheBurstTooShort) {
    const Obstacles old = active(3, 300 * kMs); // no burst, which would be 250 ms
    Wait wait(500 * kMs, 700 * kMs);
    for (int i = 0; i < 3; ++i)
        wait.round(old, 200 * kMs);
    expect_wait(wait.decide(active(3, 50 * kMs)), 100 * kMs);
    // Long enough for what was seen, if not for the margin.
    Wait enough(500 * kMs, 800 * kMs);
    for (int i = 0; i < 3; ++i)
        enough.round(old, 200 * kMs);
    expect_burst(enough.decide(active(3, 50 * kMs)), 200 * kMs);
}

TEST(WaitPolicy, AClockThatRunsBackDoesNoHarm) {
    Wait wait;
    wait.rounds({20 * kMs, 20 * kMs});
    EXPECT_EQ(wait.decide(active(3, kMs)).step, WaitStep::wait_for_holders);
    wait.now -= 3600 * kS;
    EXPECT_EQ(wait.decide(active(3, kMs)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(wait.policy.rounds, 3U);
    EXPECT_EQ(wait.policy.needed[2], 0);
    EXPECT_EQ(wait.policy.rounds_time, 40 * kMs);
    burst_ended(wait.policy, wait.now, -5, false);
    EXPECT_EQ(wait.policy.longest_stay, 0);
    EXPECT_EQ(wait.policy.rest_end, wait.now);
}

} // namespace
} // namespace lockguard::core
