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

HoldersSeen holders(std::uint32_t count, Microseconds oldest_age) {
    return {.holders = count,
            .oldest_age = oldest_age,
            .next_age = count > 1 ? oldest_age : 0,
            .autovacuum = false};
}

constexpr HoldersSeen kNobody{};

/// A wait with a clock that the test drives.
class Wait {
  public:
    explicit Wait(Microseconds max_burst = 500 * kMs, Microseconds max_wait = 0,
                  std::uint64_t seed = 1)
        : policy(start_wait({.max_burst = max_burst,
                             .deadlock_timeout = kS,
                             .deadline = max_wait > 0 ? kStart + max_wait : kUnknownTime},
                            seed)) {}

    WaitDecision decide(const HoldersSeen& present) { return core::decide(policy, present, now); }

    /// Expects to be told to wait for the holders, and comes back after `took`, when they are gone:
    /// the oldest of them by then as old as it was and that.
    void round(const HoldersSeen& present, Microseconds took) {
        const WaitDecision decision = decide(present);
        ASSERT_EQ(decision.step, WaitStep::wait_for_holders);
        ASSERT_LT(took, decision.duration);
        now += took;
        for (std::uint32_t i = 0; i < present.holders; ++i)
            holder_ended(policy, took);
    }

    /// Each with so many transactions that begin with the round and end with it.
    void rounds(std::initializer_list<Microseconds> lengths, std::uint32_t count = 1) {
        for (const Microseconds took : lengths)
            round(holders(count, 0), took);
    }

    /// Rounds, each as long as the transactions, until a burst is due; returns it.
    WaitDecision next_burst(Microseconds length) {
        for (int i = 0; i < 1'000'000; ++i) {
            const WaitDecision decision = decide(holders(3, length));
            if (decision.step == WaitStep::queue)
                return decision;
            now += length;
            holder_ended(policy, length);
        }
        ADD_FAILURE() << "no burst";
        return {WaitStep::give_up, 0};
    }

    /// No burst for an hour.
    void rest() { policy.rest_end = now + 3600 * kS; }

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
    expect_wait(wait.decide(holders(1, 5 * kMs)), kFirstHolderWait);
    EXPECT_EQ(wait.policy.attempts, 1U);
    EXPECT_EQ(wait.policy.bursts, 0U);
}

TEST(WaitPolicy, BurstsAfterFiveRoundsWithFewHolders) {
    Wait wait;
    wait.rounds({20 * kMs, 18 * kMs, 19 * kMs, 20 * kMs, 20 * kMs}, 1);
    expect_burst(wait.decide(holders(1, 19 * kMs)), 25 * kMs);
    EXPECT_EQ(wait.policy.attempts, 6U);
    EXPECT_EQ(wait.policy.bursts, 1U);
}

TEST(WaitPolicy, BurstsWhenManyWereSeenToEnd) {
    Wait wait;
    wait.rounds({20 * kMs}, kManyEnds);
    expect_burst(wait.decide(holders(4, 19 * kMs)), 25 * kMs);

    Wait two;
    two.rounds({20 * kMs, 20 * kMs}, kManyEnds / 2);
    expect_burst(two.decide(holders(4, 19 * kMs)), 25 * kMs);

    Wait few;
    few.rounds({20 * kMs, 20 * kMs}, kManyEnds / 2 - 1);
    EXPECT_EQ(few.decide(holders(4, 19 * kMs)).step, WaitStep::wait_for_holders);
}

TEST(WaitPolicy, TwoSlowRoundsAreEnough) {
    Wait wait(5 * kS);
    wait.rounds({249 * kMs, 249 * kMs}, 1);
    EXPECT_EQ(Wait(wait).decide(holders(1, 0)).step, WaitStep::wait_for_holders);
    wait.rounds({2 * kMs}, 1); // 500 ms
    EXPECT_EQ(wait.decide(holders(1, 0)).step, WaitStep::queue);

    Wait one(5 * kS);
    expect_wait(one.decide(holders(3, 0)), 250 * kMs);
    one.now += 250 * kMs;
    expect_wait(one.decide(holders(3, 250 * kMs)), 500 * kMs);
    one.now += 400 * kMs; // one round of 650 ms, in two sleeps
    holder_ended(one.policy, 650 * kMs);
    EXPECT_EQ(one.decide(holders(3, 0)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(one.policy.rounds, 1U);
    EXPECT_EQ(one.policy.seen[0].took, 650 * kMs);
    EXPECT_EQ(one.policy.seen[0].oldest, 650 * kMs);
    EXPECT_EQ(one.policy.seen[0].ends, 1U);
    one.now += 200 * kMs;
    holder_ended(one.policy, 200 * kMs);
    EXPECT_EQ(one.decide(holders(3, 0)).step, WaitStep::queue);
}

TEST(WaitPolicy, BurstIsAQuarterLongerThanTheLongestRound) {
    Wait wait;
    wait.rounds({60 * kMs, 160 * kMs, 60 * kMs, 60 * kMs, 50 * kMs});
    expect_burst(wait.decide(holders(32, 19 * kMs)), 200 * kMs);
}

TEST(WaitPolicy, BurstIsLongEnoughForATransactionThatHasJustBegun) {
    // The round was short by luck: its transactions were in the midst of their 160 ms.
    auto burst_after = [](Microseconds took, Microseconds age) {
        Wait wait;
        EXPECT_EQ(wait.decide(holders(kManyEnds, age - took)).step, WaitStep::wait_for_holders);
        wait.now += took;
        for (std::uint32_t i = 0; i < kManyEnds; ++i)
            holder_ended(wait.policy, age);
        return wait.decide(holders(3, 10 * kMs));
    };
    expect_burst(burst_after(100 * kMs, 160 * kMs), 180 * kMs);
    expect_burst(burst_after(80 * kMs, 160 * kMs), 180 * kMs);
    // These come for the lock late.
    expect_burst(burst_after(79 * kMs, 160 * kMs), 98'750);
}

TEST(WaitPolicy, BurstNeverExceedsItsLimit) {
    Wait wait;
    wait.rounds({240 * kMs, 240 * kMs, 240 * kMs});
    expect_burst(wait.decide(holders(32, 19 * kMs)), 300 * kMs);

    Wait strict(220 * kMs);
    strict.rounds({200 * kMs, 200 * kMs, 200 * kMs});
    expect_burst(strict.decide(holders(32, 19 * kMs)), 220 * kMs);

    Wait tiny(10 * kMs);
    tiny.rounds({10 * kMs, 10 * kMs, 10 * kMs, 10 * kMs, 10 * kMs});
    expect_burst(tiny.decide(holders(32, 9 * kMs)), 10 * kMs);
    tiny.fail_burst(10 * kMs);
    expect_burst(tiny.next_burst(9 * kMs), 10 * kMs);
}

TEST(WaitPolicy, ForgetsOldRounds) {
    Wait wait;
    wait.rounds({200 * kMs}, 1);
    wait.rest();
    for (std::uint32_t i = 0; i + 1 < WaitPolicy::kRemembered; ++i)
        wait.round(holders(1, 50 * kMs), 100 * kMs);
    EXPECT_EQ(burst_length(wait.policy), 250 * kMs);
    wait.round(holders(1, 50 * kMs), 100 * kMs);
    EXPECT_EQ(wait.decide(holders(1, 20 * kMs)).step, WaitStep::wait_for_holders); // which is seen
    EXPECT_EQ(burst_length(wait.policy), 125 * kMs);
}

TEST(WaitPolicy, NeverQueuesWithoutALimitAboveZero) {
    for (const Microseconds limit : {Microseconds{0}, -kMs}) {
        Wait wait(limit, 10 * kS);
        while (wait.now < kStart + 10 * kS) {
            EXPECT_EQ(wait.decide(holders(3, 0)).step, WaitStep::wait_for_holders);
            wait.now += 20 * kMs;
        }
        EXPECT_EQ(wait.policy.bursts, 0U);
        EXPECT_EQ(burst_length(wait.policy), 0);
    }
}

TEST(WaitPolicy, NeverQueuesBehindWhoIsOlderThanThoseSeenToEnd) {
    Wait wait;
    wait.rounds({20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs});
    const Microseconds limit = 20 * kMs + kAgeSlack;
    for (const Microseconds age : {limit + 1, kS, 3600 * kS, kUnknownTime - 1, kUnknownTime}) {
        EXPECT_EQ(wait.decide(holders(32, age)).step, WaitStep::wait_for_holders);
        wait.now += kMs;
    }
    // The moment it is gone, what was learned before still counts; and the first of those has
    // ended.
    expect_burst(wait.decide(holders(32, limit)), 28'126);

    // The longer they last, the more one may be older.
    Wait longer;
    longer.rounds({100 * kMs, 100 * kMs, 100 * kMs, 100 * kMs, 100 * kMs});
    EXPECT_EQ(longer.decide(holders(32, 125 * kMs + 1)).step, WaitStep::wait_for_holders);
    expect_burst(longer.decide(holders(32, 125 * kMs)), 140'626);
}

TEST(WaitPolicy, ASessionThatStaysIdleTeachesNothing) {
    Wait wait;
    Microseconds age = kS;
    for (int i = 0; i < 20; ++i) {
        const WaitDecision decision = wait.decide(holders(32, age));
        ASSERT_EQ(decision.step, WaitStep::wait_for_holders);
        wait.now += decision.duration;
        age += decision.duration;
    }
    EXPECT_EQ(wait.policy.rounds, 0U);
}

TEST(WaitPolicy, ASessionThatHasLastedForMinutesIsNoExampleForOthers) {
    Wait wait;
    EXPECT_EQ(wait.decide(holders(32, 300 * kS)).step, WaitStep::wait_for_holders);
    wait.now += 100 * kMs; // then it ends
    holder_ended(wait.policy, 300 * kS);
    for (int i = 1; i < 32; ++i)
        holder_ended(wait.policy, 110 * kMs);
    // Nor does a single such round lead to a burst.
    EXPECT_EQ(wait.decide(holders(32, 10 * kMs)).step, WaitStep::wait_for_holders);
    wait.now += 10 * kMs;
    for (int i = 0; i < 32; ++i)
        holder_ended(wait.policy, 20 * kMs);
    Wait second = wait;
    expect_burst(wait.decide(holders(32, 20 * kMs)), 25 * kMs);
    EXPECT_EQ(second.decide(holders(32, 290 * kS)).step, WaitStep::wait_for_holders);
}

TEST(WaitPolicy, LearnsFromTheOthersWhileOneStays) {
    Wait wait;
    HoldersSeen present = holders(32, kS);
    present.next_age = 19 * kMs;
    for (std::uint32_t looks = 0; looks < 2; ++looks) {
        const WaitDecision decision = wait.decide(present);
        ASSERT_EQ(decision.step, WaitStep::wait_for_holders);
        EXPECT_EQ(wait.policy.rounds, looks);
        wait.now += decision.duration;
        present.oldest_age += decision.duration;
    }
    // It has gone.
    expect_burst(wait.decide(holders(31, 19 * kMs)), 25 * kMs);

    // Where another one stays as well, nothing is seen to end.
    Wait two;
    for (int look = 0; look < 10; ++look) {
        const WaitDecision decision = two.decide(present);
        two.now += decision.duration;
        present.oldest_age += decision.duration;
        present.next_age += decision.duration;
    }
    EXPECT_EQ(two.policy.rounds, 0U);

    // Nor where he is alone.
    Wait alone;
    for (int look = 0; look < 10; ++look)
        alone.now += alone.decide(holders(1, alone.now)).duration;
    EXPECT_EQ(alone.policy.rounds, 0U);
}

TEST(WaitPolicy, TransactionsThatAreOldWhenTheyComeForTheLockAreNoObstacle) {
    Wait wait;
    for (std::uint32_t i = 0; i < kManyRounds; ++i) {
        EXPECT_EQ(wait.decide(holders(32, 2 * kS)).step, WaitStep::wait_for_holders);
        wait.now += 50 * kMs;
        for (int holder = 0; holder < 32; ++holder)
            holder_ended(wait.policy, 2 * kS + 50 * kMs);
    }
    expect_burst(wait.decide(holders(32, 2 * kS)), 62'500);
    EXPECT_EQ(wait.decide(holders(32, 3 * kS)).step, WaitStep::wait_for_holders);
}

TEST(WaitPolicy, WhoIsUnknownTeachesNothing) {
    Wait wait;
    for (int i = 0; i < 20; ++i)
        wait.round(holders(1, kUnknownTime), 20 * kMs);
    EXPECT_EQ(wait.policy.rounds, 0U);
    EXPECT_EQ(wait.decide(holders(3, 5 * kMs)).step, WaitStep::wait_for_holders);
}

TEST(WaitPolicy, DoesNotQueueWhereMostRoundsOutlastEveryBurst) {
    Wait wait;
    // Young each time it is looked at, but each lasts for 2 s.
    for (int i = 0; i < 100; ++i) {
        EXPECT_EQ(wait.decide(holders(3, kMs)).step, WaitStep::wait_for_holders);
        wait.now += 250 * kMs;
        EXPECT_EQ(wait.decide(holders(3, 251 * kMs)).step, WaitStep::wait_for_holders);
        wait.now += 500 * kMs;
        EXPECT_EQ(wait.decide(holders(3, 751 * kMs)).step, WaitStep::wait_for_holders);
        wait.now += 990 * kMs;
        holder_ended(wait.policy, 2 * kS);
    }
    EXPECT_EQ(wait.policy.bursts, 0U);
    // Four of the last eight were short: an even chance.
    wait.rounds({200 * kMs, 200 * kMs, 200 * kMs});
    EXPECT_EQ(wait.decide(holders(3, kMs)).step, WaitStep::wait_for_holders);
    wait.now += 200 * kMs;
    holder_ended(wait.policy, 200 * kMs);
    expect_burst(wait.decide(holders(3, kMs)), 250 * kMs);
}

TEST(WaitPolicy, RoundsOfExactlyTheLimitFit) {
    Wait wait(100 * kMs);
    wait.rounds({100 * kMs, 100 * kMs, 100 * kMs, 100 * kMs, 100 * kMs});
    expect_burst(wait.decide(holders(3, kMs)), 100 * kMs);
    Wait over(100 * kMs);
    for (int i = 0; i < 10; ++i)
        over.round(holders(3, kMs), 100 * kMs + 1);
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
        EXPECT_EQ(other.decide(holders(3, 20 * kMs)).step, WaitStep::wait_for_holders);
        other = wait;
        other.now = wait.policy.rest_end;
        EXPECT_EQ(other.decide(holders(3, 20 * kMs)).step, WaitStep::queue);

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
    expect_burst(wait.decide(holders(3, 20 * kMs)), burst.duration);
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
    wait.round(holders(3, 20 * kMs), 20 * kMs);
    EXPECT_EQ(wait.decide(kNobody).step, WaitStep::back_off);
    wait.now = wait.policy.rest_end;
    expect_burst(wait.decide(holders(3, 20 * kMs)), 25 * kMs);
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
    wait.round(holders(1, kMs), kMs);
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
    EXPECT_EQ(wait.decide(holders(3, kMs)).step, WaitStep::wait_for_holders);
    // A round that ends with nobody to be seen is one.
    wait.now += 7 * kMs;
    EXPECT_EQ(wait.decide(kNobody).step, WaitStep::back_off);
    EXPECT_EQ(wait.policy.rounds, 1U);
    EXPECT_EQ(wait.policy.seen[0].took, 7 * kMs);
}

TEST(WaitPolicy, SleepsGrowWhileTheHoldersStay) {
    Wait wait;
    for (const Microseconds expected : {250, 500, 1000, 2000, 2000}) {
        const WaitDecision decision = wait.decide(holders(1, 3600 * kS));
        expect_wait(decision, expected * kMs);
        wait.now += decision.duration;
    }
    wait.round(holders(1, 3600 * kS), 300 * kMs);
    expect_wait(wait.decide(holders(1, kMs)), 250 * kMs);
}

TEST(WaitPolicy, IdleWaitIsCheap) {
    Wait wait;
    while (wait.now < kStart + 60 * kS)
        wait.now += wait.decide(holders(1, 3600 * kS)).duration;
    EXPECT_LE(wait.policy.attempts, 33U);
}

TEST(WaitPolicy, OutwaitsTheDeadlockTimeoutOfAutovacuum) {
    for (const Microseconds age : {kMs, 3600 * kS}) {
        Wait wait;
        wait.rounds({20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs, 20 * kMs});
        HoldersSeen vacuum = holders(1, age);
        vacuum.autovacuum = true;
        for (const Microseconds expected : {1250, 1500, 2000, 3000}) {
            const WaitDecision decision = wait.decide(vacuum);
            expect_wait(decision, expected * kMs);
            wait.now += decision.duration;
        }
        EXPECT_EQ(wait.policy.rounds, 5U);
    }
}

TEST(WaitPolicy, GivesUpExactlyAtTheDeadline) {
    for (const HoldersSeen& present :
         {holders(3, kMs), holders(3, 3600 * kS), holders(3, kUnknownTime), kNobody}) {
        Wait wait(500 * kMs, 2 * kS);
        const Timestamp deadline = kStart + 2 * kS;
        for (;;) {
            const WaitDecision decision = wait.decide(present);
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
        EXPECT_EQ(wait.decide(present).step, WaitStep::give_up);
    }
}

TEST(WaitPolicy, OneMicrosecondBeforeTheDeadlineIsNotTheDeadline) {
    Wait wait(500 * kMs, kS);
    wait.now = kStart + kS - 1;
    expect_wait(wait.decide(holders(3, kS)), 1);
    EXPECT_EQ(wait.decide(kNobody).duration, 1);
}

TEST(WaitPolicy, TakesTheLastChanceBeforeTheDeadline) {
    // No time for five rounds of 20 ms and a burst.
    for (const Microseconds max_wait : {91 * kMs, 90 * kMs}) {
        Wait wait(500 * kMs, max_wait);
        wait.round(holders(3, 19 * kMs), 20 * kMs);
        wait.round(holders(3, 19 * kMs), 20 * kMs);
        EXPECT_EQ(wait.decide(holders(3, 19 * kMs)).step,
                  max_wait == 91 * kMs ? WaitStep::wait_for_holders : WaitStep::queue);
    }

    // So short a limit that there is time for nothing else.
    Wait at_once(500 * kMs, 30 * kMs);
    expect_burst(at_once.decide(holders(32, 19 * kMs)), 25 * kMs);
    // Neither idle sessions nor old transactions are put up with, though.
    Wait idle(500 * kMs, 30 * kMs);
    expect_wait(idle.decide(holders(32, kS)), 30 * kMs);
    Wait old(500 * kMs, 30 * kMs);
    expect_wait(old.decide(holders(32, 26 * kMs)), 30 * kMs);
}

TEST(WaitPolicy, DoesNotQueueWhereTheDeadlineCutsTheBurstTooShort) {
    Wait wait(500 * kMs, 700 * kMs);
    wait.rest(); // else a burst of 250 ms
    wait.rounds({200 * kMs, 200 * kMs, 200 * kMs});
    wait.policy.rest_end = wait.now;
    expect_wait(wait.decide(holders(3, 50 * kMs)), 100 * kMs);
    // Long enough for what was seen, if not for the margin.
    Wait enough(500 * kMs, 800 * kMs);
    enough.rest();
    enough.rounds({200 * kMs, 200 * kMs, 200 * kMs});
    enough.policy.rest_end = enough.now;
    expect_burst(enough.decide(holders(3, 50 * kMs)), 200 * kMs);
}

TEST(WaitPolicy, AClockThatRunsBackDoesNoHarm) {
    Wait wait;
    wait.rounds({20 * kMs, 20 * kMs});
    EXPECT_EQ(wait.decide(holders(3, kMs)).step, WaitStep::wait_for_holders);
    wait.now -= 3600 * kS;
    EXPECT_EQ(wait.decide(holders(3, kMs)).step, WaitStep::wait_for_holders);
    EXPECT_EQ(wait.policy.rounds, 3U);
    EXPECT_EQ(wait.policy.seen[2].took, 0);
    burst_ended(wait.policy, wait.now, -5, false);
    EXPECT_EQ(wait.policy.longest_stay, 0);
    EXPECT_EQ(wait.policy.rest_end, wait.now);
}

} // namespace
} // namespace lockguard::core
