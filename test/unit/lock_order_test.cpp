#include "core/lock_order.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

namespace lockguard::core {
namespace {

class LockOrderTest : public testing::Test {
  protected:
    std::span<const Chain> chains(SessionIndex target, ChainRule rule = ChainRule::any_wait) {
        return find_chains(tables_.table(), target, rule, memory_);
    }
    Timestamp complete(SessionIndex session, SessionIndex target,
                       ChainRule rule = ChainRule::any_wait) {
        return chains(target, rule)[session].complete;
    }
    Ring ring(SessionIndex self) { return find_ring(chains(self), self, memory_); }
    std::vector<SessionIndex> members(SessionIndex self) {
        std::vector<SessionIndex> result;
        for (const RingMember& member : ring(self).members)
            result.push_back(member.session);
        return result;
    }
    /// `holder` has the lock, and `waiter` wants it since then; any mode conflicts.
    void waits(SessionIndex waiter, SessionIndex holder, Timestamp since,
               WaitKind kind = WaitKind::data) {
        tables_.lock({{holder, mode_bit(kAccessExclusive)}},
                     {{waiter, kAccessExclusive, next_wait_++, since}});
        tables_.locks().back().kind = kind;
    }

    TableBuilder tables_;
    TestMemory memory_;
    std::uint32_t next_wait_ = 0;
};

TEST_F(LockOrderTest, NobodyWaits) {
    EXPECT_TRUE(chains(0).empty());
    tables_.add_sessions(2);
    tables_.lock({{0, mode_bit(kAccessShare)}}, {});
    EXPECT_FALSE(chains(0)[1].exists());
    EXPECT_TRUE(ring(0).members.empty());
    EXPECT_TRUE(find_ring(chains(7), 7, memory_).members.empty());
}

TEST_F(LockOrderTest, AChainIsCompleteWithItsLatestWait) {
    tables_.add_sessions(4);
    waits(1, 0, 50);
    waits(2, 1, 10);
    waits(3, 2, 70);
    const auto found = chains(0);
    EXPECT_EQ(found[1].complete, 50);
    EXPECT_EQ(found[2].complete, 50); // has waited since 10, but for somebody who did not wait yet
    EXPECT_EQ(found[2].last, 1U);
    EXPECT_EQ(found[2].next, 1U);
    EXPECT_EQ(found[2].wait, 1U);
    EXPECT_EQ(found[3].complete, 70);
    EXPECT_EQ(found[3].last, 3U);
    EXPECT_FALSE(chains(3)[0].exists());
    EXPECT_FALSE(found[0].exists());
}

TEST_F(LockOrderTest, OfSeveralChainsTheFirstCounts) {
    tables_.add_sessions(4);
    waits(3, 1, 5);
    waits(3, 2, 6); // two processes of one parallel query
    waits(1, 0, 90);
    waits(2, 0, 40);
    EXPECT_EQ(complete(3, 0), 40);
    EXPECT_EQ(chains(0)[3].next, 2U);
}

TEST_F(LockOrderTest, WhoStandsAheadInTheQueueBlocks) {
    tables_.add_sessions(5);
    tables_.lock({{4, mode_bit(kAccessShare)}}, {{1, kAccessShare, 0, 5},
                                                 {0, kAccessExclusive, 1, 10},
                                                 {2, kAccessShare, 2, 20},
                                                 {3, kAccessExclusive, 3, 30}});
    EXPECT_FALSE(chains(0)[1].exists());
    EXPECT_FALSE(chains(0)[4].exists());
    EXPECT_EQ(complete(2, 0), 20);
    EXPECT_EQ(complete(3, 0), 30);
    // To the holder all that want to be alone, and who stands behind them.
    EXPECT_EQ(complete(0, 4), 10);
    EXPECT_EQ(complete(2, 4), 20);
}

TEST_F(LockOrderTest, ModesThatDoNotConflictBlockNobody) {
    tables_.add_sessions(3);
    tables_.lock({{0, mode_bit(kAccessShare)}, {1, mode_bit(kShare)}}, {{2, kRowExclusive, 0, 7}});
    EXPECT_FALSE(chains(0)[2].exists());
    EXPECT_EQ(complete(2, 1), 7);
}

TEST_F(LockOrderTest, DirectWaitsLeadOn) {
    tables_.add_sessions(3);
    tables_.direct(1, 0, kAccessShare, WaitKind::data, 4, 100);
    waits(2, 1, 30);
    EXPECT_EQ(complete(1, 0), 100);
    EXPECT_EQ(chains(0)[1].wait, 4U);
    EXPECT_EQ(complete(2, 0), 100);
}

TEST_F(LockOrderTest, AWaitOfUnknownStartIsAChainAllTheSame) {
    tables_.add_sessions(2);
    waits(1, 0, kUnknownTime);
    EXPECT_TRUE(chains(0)[1].exists());
}

// ---- Who is kept waiting

TEST_F(LockOrderTest, OnlyDataKeepsAnybodyWaiting) {
    tables_.add_sessions(4);
    waits(1, 0, 10, WaitKind::data);
    waits(2, 0, 10, WaitKind::object);
    waits(3, 0, 10, WaitKind::arranged);
    const auto kept = chains(0, ChainRule::kept_waiting);
    EXPECT_TRUE(kept[1].exists());
    EXPECT_FALSE(kept[2].exists());
    EXPECT_FALSE(kept[3].exists());
    const auto all = chains(0);
    EXPECT_TRUE(all[1].exists() && all[2].exists() && all[3].exists());
}

TEST_F(LockOrderTest, OnTheWayAnObjectLeadsOnAndAnAdvisoryLockDoesNot) {
    tables_.add_sessions(4);
    waits(1, 0, 10);
    waits(2, 1, 20, WaitKind::object);
    waits(3, 1, 20, WaitKind::arranged);
    const auto kept = chains(0, ChainRule::kept_waiting);
    EXPECT_EQ(kept[2].complete, 20);
    EXPECT_FALSE(kept[3].exists());
}

TEST_F(LockOrderTest, BehindAWaitAtLowPriorityForUs) {
    tables_.add_sessions(4);
    tables_.direct(1, 0, kAccessShare, WaitKind::data, 0, 10);
    waits(2, 1, 20);
    tables_.direct(3, 0, kExclusive, WaitKind::arranged, 0, 10);
    const auto kept = chains(0, ChainRule::kept_waiting);
    EXPECT_EQ(kept[1].complete, 10);
    EXPECT_EQ(kept[2].complete, 20);
    EXPECT_FALSE(kept[3].exists());
}

TEST_F(LockOrderTest, StandingInTheQueueOfAnObjectKeepsNobodyWaiting) {
    tables_.add_sessions(3);
    tables_.lock({{2, mode_bit(kAccessShare)}},
                 {{0, kAccessExclusive, 0, 1}, {1, kAccessShare, 1, 2}});
    EXPECT_TRUE(chains(0, ChainRule::kept_waiting)[1].exists());
    tables_.locks().back().kind = WaitKind::object;
    EXPECT_FALSE(chains(0, ChainRule::kept_waiting)[1].exists());
}

// ---- Rings

TEST_F(LockOrderTest, WhoWaitsLastClosesTheRing) {
    tables_.add_sessions(3);
    waits(0, 1, 30);
    waits(1, 2, 20);
    waits(2, 0, 10);
    for (const SessionIndex self : {0U, 1U, 2U}) {
        EXPECT_EQ(ring(self).closer, 0U);
        EXPECT_EQ(ring(self).closed, 30);
    }
    EXPECT_EQ(members(0), (std::vector<SessionIndex>{0, 1, 2}));
    EXPECT_EQ(members(2), (std::vector<SessionIndex>{2, 0, 1}));
    EXPECT_EQ(ring(2).members[1].wait, 0U);
}

TEST_F(LockOrderTest, WaitsOfTheSameTimeAreOrderedByPid) {
    tables_.session(9);
    tables_.session(7);
    waits(0, 1, 5);
    waits(1, 0, 5);
    EXPECT_EQ(ring(0).closer, 0U);
    EXPECT_EQ(ring(1).closer, 0U);
}

TEST_F(LockOrderTest, AllButTheFirstOfAnUpgradeCloseARing) {
    constexpr SessionIndex kCount = 6;
    tables_.add_sessions(kCount);
    for (SessionIndex waiter = 0; waiter < kCount; ++waiter) {
        for (SessionIndex holder = 0; holder < kCount; ++holder)
            tables_.direct(waiter, holder, kAccessShare, WaitKind::data, waiter, 100 + waiter);
    }
    EXPECT_EQ(ring(0).closer, 1U); // not the first one: for him another ends it
    for (SessionIndex self = 1; self < kCount; ++self) {
        EXPECT_EQ(ring(self).closer, self);
        EXPECT_EQ(ring(self).members.size(), 2U);
    }
}

TEST_F(LockOrderTest, AnUpgradeInTheQueue) {
    tables_.add_sessions(2);
    tables_.lock({{0, mode_bit(kAccessShare)}, {1, mode_bit(kAccessShare)}},
                 {{0, kAccessExclusive, 0, 10}, {1, kAccessExclusive, 1, 20}});
    EXPECT_EQ(ring(0).closer, 1U);
    EXPECT_EQ(ring(1).closer, 1U);
    EXPECT_EQ(members(0), (std::vector<SessionIndex>{0, 1}));
}

TEST_F(LockOrderTest, NobodyIsOnARingWithItself) {
    tables_.add_sessions(3);
    tables_.lock({{0, mode_bit(kAccessShare)}, {1, mode_bit(kAccessShare)}},
                 {{0, kAccessExclusive, 0, 10}, {2, kAccessExclusive, 1, 20}});
    EXPECT_TRUE(ring(0).members.empty());
    EXPECT_TRUE(ring(2).members.empty()); // waits for two, and nobody for him
}

TEST_F(LockOrderTest, ARingElsewhereIsNotOurs) {
    tables_.add_sessions(4);
    waits(1, 2, 10);
    waits(2, 1, 20);
    waits(0, 1, 30); // behind it
    waits(3, 0, 40);
    EXPECT_TRUE(ring(0).members.empty());
    EXPECT_TRUE(chains(1)[0].exists());
    EXPECT_EQ(ring(1).closer, 2U);
}

TEST_F(LockOrderTest, WhatNoLockTableContainsIsLeftOut) {
    tables_.add_sessions(2);
    tables_.lock({{9, mode_bit(kAccessExclusive)}, {0, mode_bit(kAccessExclusive)}},
                 {{9, kShare, 0, 1}, {1, 0, 0, 1}, {1, 9, 0, 1}});
    tables_.lock({{0, mode_bit(kAccessExclusive)}}, {{1, kShare, 0, 1}}, nullptr);
    tables_.locks().push_back({7, 7, 7, 7, kConflicts.data()});
    tables_.direct(1, 9, kShare);
    tables_.direct(1, 1, kShare);
    EXPECT_FALSE(chains(0)[1].exists());
    EXPECT_FALSE(chains(1)[0].exists());
}

TEST_F(LockOrderTest, OutOfMemoryLeavesNothingBehind) {
    tables_.add_sessions(2);
    waits(0, 1, 1);
    waits(1, 0, 2);
    const auto to_us = chains(0);
    EXPECT_EQ(fail_every_allocation([this](auto& memory) {
                  find_chains(tables_.table(), 0, ChainRule::any_wait, memory);
              }),
              1U);
    EXPECT_EQ(fail_every_allocation([&to_us](auto& memory) { find_ring(to_us, 0, memory); }), 1U);
}

// ---- Against the definition

/// Every chain there is, by the edges of core/lock_graph: the latest wait of the best one.
class Definition {
  public:
    Definition(LockGraph graph, std::vector<Timestamp> since)
        : graph_(graph), since_(std::move(since)), seen_(since_.size()) {}

    Timestamp best(SessionIndex from, SessionIndex target) {
        best_ = kUnknownTime;
        follow(from, target, INT64_MIN);
        return best_;
    }

  private:
    void follow(SessionIndex session, SessionIndex target, Timestamp latest) {
        latest = std::max(latest, since_[session]);
        if (latest >= best_)
            return;
        seen_[session] = true;
        for (const Edge& edge : graph_.blockers_of(session)) {
            if (edge.blocker == target)
                best_ = std::min(best_, latest);
            else if (!seen_[edge.blocker])
                follow(edge.blocker, target, latest);
        }
        seen_[session] = false;
    }

    LockGraph graph_;
    std::vector<Timestamp> since_;
    std::vector<bool> seen_;
    Timestamp best_ = kUnknownTime;
};

TEST(LockOrderRandomTest, AgreesWithTheDefinition) {
    std::mt19937 random(1); // the same in each run
    auto below = [&random](std::uint32_t limit) {
        return std::uniform_int_distribution<std::uint32_t>(0, limit - 1)(random);
    };
    std::size_t rings = 0;
    for (int round = 0; round < 400; ++round) {
        const std::uint32_t count = 2 + below(7);
        TableBuilder tables;
        tables.add_sessions(count);
        std::vector<std::uint32_t> order(count);
        std::vector<Timestamp> since(count);
        for (std::uint32_t i = 0; i < count; ++i)
            order[i] = since[i] = 100 + static_cast<std::uint32_t>(i);
        std::shuffle(since.begin(), since.end(), random);
        std::vector<std::vector<Holder>> holders(1 + below(4));
        std::vector<std::vector<Waiter>> waiters(holders.size());
        for (auto& lock : holders) {
            for (SessionIndex s = 0; s < count; ++s) {
                if (below(3) == 0)
                    lock.push_back({s, mode_bit(static_cast<LockMode>(1 + below(8)))});
            }
        }
        for (SessionIndex s = 0; s < count; ++s) {
            if (below(5) == 0)
                tables.direct(s, (s + 1 + below(count - 1)) % count, kShare, WaitKind::data, s,
                              since[s]);
            else if (below(4) != 0)
                waiters[below(static_cast<std::uint32_t>(waiters.size()))].push_back(
                    {s, static_cast<LockMode>(1 + below(8)), s, since[s]});
        }
        for (std::size_t i = 0; i < holders.size(); ++i)
            tables.lock(holders[i], waiters[i]);

        TestMemory memory;
        Definition definition(build_lock_graph(tables.table(), memory), since);
        for (SessionIndex target = 0; target < count; ++target) {
            const auto chains = find_chains(tables.table(), target, ChainRule::any_wait, memory);
            for (SessionIndex s = 0; s < count; ++s) {
                const Timestamp complete = definition.best(s, target);
                ASSERT_EQ(chains[s].complete, complete) << "round " << round;
                if (complete == kUnknownTime)
                    continue;
                ASSERT_EQ(since[chains[s].last], complete);
                ASSERT_EQ(chains[s].wait, s);
            }
            const Ring ring = find_ring(chains, target, memory);
            rings += ring.members.empty() ? 0 : 1;
            if (!ring.members.empty()) {
                EXPECT_EQ(ring.members[0].session, target);
                EXPECT_TRUE(std::any_of(
                    ring.members.begin(), ring.members.end(),
                    [&ring](const RingMember& member) { return member.session == ring.closer; }));
            }
        }
    }
    EXPECT_GT(rings, 100U);
}

} // namespace
} // namespace lockguard::core
