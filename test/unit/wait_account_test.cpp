#include "core/wait_account.h"

#include "test_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace lockguard::core {
namespace {

constexpr Microseconds kMs = 1000;

WaitKey key(std::uint32_t relation) {
    WaitKey key = {};
    key.relation = relation;
    return key;
}

struct Sums {
    std::uint64_t waits = 0;
    Microseconds time = 0;
    Microseconds longest = 0;
};

/// Accounts for looks, one after the other.
class Books {
  public:
    void look(Timestamp now, const std::vector<SampledWait>& seen, Microseconds next_gap) {
        TestMemory memory;
        const WaitAccount account = account_waits(open_, looked_at_, seen, now, next_gap, memory);
        for (const WaitAddition& addition : account.additions) {
            sums.waits += addition.waits;
            sums.time += addition.time;
            sums.longest = std::max(sums.longest, addition.longest);
            last_key = addition.key;
        }
        open_.assign(account.open.begin(), account.open.end());
        looked_at_ = now;
    }
    std::size_t open() const { return open_.size(); }
    Sums sums;
    WaitKey last_key = {};

  private:
    std::vector<OpenWait> open_;
    Timestamp looked_at_ = 0;
};

TEST(WaitAccountTest, ALongWaitIsCountedOnce) {
    Books books;
    books.look(1000 * kMs, {}, 100 * kMs);
    books.look(1100 * kMs, {{1, 1030 * kMs, false, key(5)}}, 100 * kMs);
    books.look(1200 * kMs, {{1, 1030 * kMs, false, key(5)}}, 100 * kMs);
    books.look(1300 * kMs, {}, 100 * kMs);
    EXPECT_EQ(books.sums.waits, 1U);
    EXPECT_EQ(books.sums.time, (50 + 100 + 50) * kMs) << "plain sampling where looks are regular";
    EXPECT_EQ(books.sums.longest, 170 * kMs);
    EXPECT_EQ(books.open(), 0U);
}

TEST(WaitAccountTest, TheFirstLookCountsWaitsAsTheyAre) {
    Books books;
    books.look(1000 * kMs, {{1, 400 * kMs, false, key(5)}}, 100 * kMs);
    EXPECT_EQ(books.sums.time, 600 * kMs);
}

TEST(WaitAccountTest, WhatAnnouncesItselfCountsAsItIs) {
    Books books;
    books.look(1000 * kMs, {}, 100 * kMs);
    books.look(2000 * kMs, {{1, 1990 * kMs, true, key(5)}}, 100 * kMs);
    EXPECT_EQ(books.sums.time, 10 * kMs);
}

TEST(WaitAccountTest, AnotherWaitOfTheSameProcessIsAnother) {
    Books books;
    books.look(1000 * kMs, {{1, 950 * kMs, false, key(5)}, {2, 950 * kMs, false, key(5)}},
               100 * kMs);
    books.look(1100 * kMs, {{2, 1050 * kMs, false, key(5)}}, 100 * kMs);
    EXPECT_EQ(books.sums.waits, 3U);
}

TEST(WaitAccountTest, TheBlockerOfTheMomentHasTheTime) {
    Books books;
    books.look(1000 * kMs, {{1, 950 * kMs, false, key(5)}}, 100 * kMs);
    books.look(1100 * kMs, {{1, 950 * kMs, false, key(6)}}, 100 * kMs);
    EXPECT_EQ(books.last_key.relation, 6U);
    EXPECT_EQ(books.sums.waits, 1U);
}

TEST(WaitAccountTest, AnUnknownStartIsCountedFromTheLook) {
    Books books;
    books.look(1000 * kMs, {{1, 0, false, key(5)}}, 100 * kMs);
    books.look(1100 * kMs, {{1, 0, false, key(5)}}, 100 * kMs);
    EXPECT_EQ(books.sums.waits, 1U);
    EXPECT_EQ(books.sums.time, 100 * kMs);
}

/// Waits of one length at random times, and looks that come each `slow` while nobody waits, and
/// each `fast` while somebody does. Returns the sum by the true sum.
double ratio(Microseconds length, Microseconds slow, Microseconds fast, std::uint32_t seed) {
    std::mt19937 random(seed);
    std::uniform_int_distribution<Microseconds> pause(1, 20 * slow);
    Books books;
    Timestamp now = 1'000'000;
    Timestamp wait_begins = now + slow + pause(random);
    Microseconds truth = 0;
    books.look(now, {}, fast);
    Microseconds gap = slow;
    for (int waits = 0; waits < 4000;) {
        now += gap;
        while (wait_begins + length <= now) {
            truth += length;
            ++waits;
            wait_begins += length + pause(random);
        }
        const bool waiting = wait_begins <= now;
        if (waiting)
            books.look(now, {{1, wait_begins, false, key(1)}}, fast);
        else
            books.look(now, {}, fast);
        gap = waiting ? fast : slow;
    }
    return static_cast<double>(books.sums.time) / static_cast<double>(truth);
}

TEST(WaitAccountTest, SumsAreRightOnAverageForEachLength) {
    for (const Microseconds length : {20, 70, 150, 400, 900, 1000, 1500, 5000}) {
        // With fewer seen than there are, the shortest scatter the most.
        const double tolerance = length < 100 ? 0.15 : 0.05;
        EXPECT_NEAR(ratio(length * kMs, 1000 * kMs, 100 * kMs, 42), 1, tolerance) << length;
        EXPECT_NEAR(ratio(length * kMs, 1000 * kMs, 1000 * kMs, 43), 1, tolerance * 2) << length;
    }
}

TEST(WaitAccountTest, FailsCleanlyWithoutMemory) {
    const std::vector<SampledWait> seen = {{2, 5, false, key(1)}, {1, 5, false, key(2)}};
    const std::vector<OpenWait> before = {{3, 4, key(3)}};
    EXPECT_GT(fail_every_allocation(
                  [&](auto& memory) { account_waits(before, 1, seen, 100, 10, memory); }),
              0U);
}

} // namespace
} // namespace lockguard::core
