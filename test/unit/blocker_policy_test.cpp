#include "core/blocker_policy.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <tuple>
#include <vector>

namespace lockguard::core {

bool operator==(const BlockerDecision& a, const BlockerDecision& b) {
    return std::tie(a.victim, a.request, a.idle, a.blocked_for, a.blocks) ==
           std::tie(b.victim, b.request, b.idle, b.blocked_for, b.blocks);
}

std::ostream& operator<<(std::ostream& out, const BlockerDecision& d) {
    return out << "victim " << d.victim << " request " << d.request << " idle " << d.idle
               << " blocked_for " << d.blocked_for << " blocks " << d.blocks;
}

namespace {

using Decisions = std::vector<BlockerDecision>;

constexpr Timestamp kNow = 1'000'000;
constexpr BlockerLimits kLimits{.min_idle = 600, .min_wait = 50};

/// A victim that has been idle for 700 in a transaction of 900, and has blocked an ALTER TABLE for
/// 100: all limits are passed. Each test changes one thing.
class BlockerPolicyTest : public testing::Test {
  protected:
    BlockerPolicyTest() {
        victim_ = session(4711, kNow - 900);
        facts_[victim_].idle_in_transaction = true;
        facts_[victim_].state_start = kNow - 700;
        alter_ = session(4712, kNow - 100);
        maker_.edge(alter_, victim_, true, kAccessShare);
        requests_.push_back({alter_, 16402, kAccessExclusive, kNow - 100, true});
    }

    SessionIndex session(std::int32_t pid, Timestamp xact_start) {
        facts_.push_back({.client_backend = true,
                          .superuser = false,
                          .idle_in_transaction = false,
                          .aborted = false,
                          .state_start = kNow - 10'000});
        return sessions_.emplace_back(maker_.session(pid, xact_start));
    }

    Decisions judge(Timestamp now = kNow) {
        const std::size_t blocks_before = memory_.live_blocks();
        const auto decisions =
            judge_blockers(maker_.graph(), facts_, requests_, limits_, now, memory_);
        EXPECT_EQ(memory_.live_blocks() - blocks_before, decisions.empty() ? 0U : 1U);
        EXPECT_FALSE(memory_.misused());
        return {decisions.begin(), decisions.end()};
    }

    /// Replaces the graph's sessions: for changes of xact_start and pid.
    void replace_victim(std::int32_t pid, Timestamp xact_start) {
        maker_ = GraphMaker();
        maker_.session(pid, xact_start);
        maker_.session(4712, kNow - 100);
        maker_.edge(alter_, victim_, true, kAccessShare);
    }

    GraphMaker maker_;
    std::vector<SessionIndex> sessions_;
    std::vector<SessionFacts> facts_;
    std::vector<BlockedRequest> requests_;
    BlockerLimits limits_ = kLimits;
    TestMemory memory_;
    SessionIndex victim_ = 0;
    SessionIndex alter_ = 0;
};

TEST_F(BlockerPolicyTest, EndsTheBlocker) {
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 1}}));
}

TEST_F(BlockerPolicyTest, NothingWithoutRequests) {
    requests_.clear();
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, AbortedIsIdleToo) {
    facts_[victim_].aborted = true;
    EXPECT_EQ(judge().size(), 1U);
}

TEST_F(BlockerPolicyTest, OnlyAccessExclusiveCounts) {
    for (LockMode mode = 0; mode < kMaxLockMode; ++mode) {
        requests_[0].wanted = mode;
        EXPECT_EQ(judge().size(), mode == kAccessExclusive ? 1U : 0U) << int{mode};
    }
}

TEST_F(BlockerPolicyTest, OnlyRequestsOfClientBackendsCount) {
    requests_[0].client_backend = false;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, StandingAheadInTheQueueIsNoOffence) {
    maker_.edge(alter_, victim_, false, kAccessExclusive);
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, OnlyClientBackendsAreEnded) {
    facts_[victim_].client_backend = false;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, SuperusersAreNotEnded) {
    facts_[victim_].superuser = true;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, OnlyIdleInTransactionIsEnded) {
    facts_[victim_].idle_in_transaction = false;
    EXPECT_EQ(judge(), Decisions{});
    facts_[victim_].aborted = true; // means nothing by itself
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, WithoutAPidNobodyIsEnded) {
    for (const std::int32_t pid : {0, -1}) {
        replace_victim(pid, kNow - 900);
        EXPECT_EQ(judge(), Decisions{});
    }
    replace_victim(1, kNow - 900);
    EXPECT_EQ(judge().size(), 1U);
}

TEST_F(BlockerPolicyTest, MinIdleIsReachedToTheMicrosecond) {
    facts_[victim_].state_start = kNow - 600;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 600, 100, 1}}));
    facts_[victim_].state_start = kNow - 599;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, MinWaitIsReachedToTheMicrosecond) {
    requests_[0].wait_start = kNow - 50;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 50, 1}}));
    requests_[0].wait_start = kNow - 49;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, AYoungTransactionHasNotBlockedLong) {
    // The request has waited for 100, but this transaction is one of many that blocked it.
    replace_victim(4711, kNow - 50);
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 50, 1}}));
    replace_victim(4711, kNow - 49);
    EXPECT_EQ(judge(), Decisions{});
    replace_victim(4711, kUnknownTime);
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, UnknownTimesSatisfyNothing) {
    limits_ = {0, 0};
    EXPECT_EQ(judge().size(), 1U);
    for (const Timestamp unknown : {Timestamp{0}, kUnknownTime}) {
        const auto saved = requests_[0];
        requests_[0].wait_start = unknown; // the server sets it a moment after the wait begins
        EXPECT_EQ(judge(), Decisions{});
        requests_[0] = saved;

        facts_[victim_].state_start = unknown;
        EXPECT_EQ(judge(), Decisions{});
        facts_[victim_].state_start = kNow - 700;

        replace_victim(4711, unknown);
        EXPECT_EQ(judge(), Decisions{});
        replace_victim(4711, kNow - 900);
    }
    EXPECT_EQ(judge().size(), 1U);
}

TEST_F(BlockerPolicyTest, AClockThatJumpedBackSatisfiesNothing) {
    limits_ = {0, 0};
    facts_[victim_].state_start = kNow + 1;
    EXPECT_EQ(judge(), Decisions{});
    facts_[victim_].state_start = kNow; // age 0, limit 0
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 0, 100, 1}}));

    requests_[0].wait_start = kNow + 1;
    EXPECT_EQ(judge(), Decisions{});
    requests_[0].wait_start = kNow;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 0, 0, 1}}));

    replace_victim(4711, kNow + 1);
    EXPECT_EQ(judge(), Decisions{});
    replace_victim(4711, kNow);
    EXPECT_EQ(judge().size(), 1U);

    // No limit makes a negative age do.
    limits_ = {std::numeric_limits<Microseconds>::min(), std::numeric_limits<Microseconds>::min()};
    facts_[victim_].state_start = kNow + 1;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, ExtremeClocksDoNotOverflow) {
    constexpr Timestamp kFirst = std::numeric_limits<Timestamp>::min();
    constexpr Timestamp kLast = std::numeric_limits<Timestamp>::max();
    EXPECT_EQ(judge(kFirst), Decisions{});
    facts_[victim_].state_start = kFirst;
    requests_[0].wait_start = kFirst;
    replace_victim(4711, kFirst);
    EXPECT_EQ(judge(kLast), Decisions({{victim_, 0, kLast, kLast, 1}}));
    facts_[victim_].state_start = kLast - 1;
    EXPECT_EQ(judge(kFirst), Decisions{});
}

TEST_F(BlockerPolicyTest, ASessionWithoutFactsIsNotEnded) {
    facts_.clear();
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, ARequestOfNobodyIsIgnored) {
    requests_.push_back({2, 16402, kAccessExclusive, kNow - 200, true});
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 1}}));
}

TEST_F(BlockerPolicyTest, NobodyIsEndedForItsOwnRequest) {
    maker_.edge(victim_, victim_, true, kAccessShare);
    requests_[0].session = victim_;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, NamesTheRequestThatItHasBlockedLongest) {
    const SessionIndex other = session(4713, kNow - 300);
    maker_.edge(other, victim_);
    requests_.push_back({other, 16402, kAccessExclusive, kNow - 300, true});
    requests_.push_back({alter_, 16403, kAccessExclusive, kNow - 200, true});
    EXPECT_EQ(judge(), Decisions({{victim_, 1, 700, 300, 2}}));
    std::reverse(requests_.begin(), requests_.end());
    EXPECT_EQ(judge(), Decisions({{victim_, 1, 700, 300, 2}}));
}

TEST_F(BlockerPolicyTest, BlockedEquallyLongTheRequestThatHasWaitedLongest) {
    replace_victim(4711, kNow - 80); // younger than all requests
    requests_[0].wait_start = kNow - 300;
    requests_.push_back({alter_, 1, kAccessExclusive, kNow - 400, true});
    requests_.push_back({alter_, 2, kAccessExclusive, kNow - 400, true});
    requests_.push_back({alter_, 3, kAccessExclusive, kNow - 200, true});
    EXPECT_EQ(judge(), Decisions({{victim_, 1, 700, 80, 1}}));
}

TEST_F(BlockerPolicyTest, CountsTheSessionsThatWaitDirectlyOnTheVictim) {
    const SessionIndex writer = session(5000, kNow - 10); // counts, though it is no DDL
    const SessionIndex reader = session(5001, kNow - 10); // waits on the ALTER TABLE only
    maker_.edge(writer, victim_, true, kShare);
    maker_.edge(reader, alter_, false);
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 2}}));
}

TEST_F(BlockerPolicyTest, LongestBlockedFirstThenPid) {
    const auto add_victim = [&](std::int32_t pid, Timestamp xact_start) {
        const SessionIndex s = session(pid, xact_start);
        facts_[s].idle_in_transaction = true;
        facts_[s].state_start = kNow - 600;
        maker_.edge(alter_, s, true, kAccessShare);
        return s;
    };
    const SessionIndex short_time = add_victim(10, kNow - 60);
    const SessionIndex same_time = add_victim(4000, kNow - 100);
    const SessionIndex bystander = session(20, kNow - 900);
    maker_.edge(alter_, bystander, true, kAccessShare);
    EXPECT_EQ(judge(), Decisions({{same_time, 0, 600, 100, 1},
                                  {victim_, 0, 700, 100, 1},
                                  {short_time, 0, 600, 60, 1}}));
}

TEST_F(BlockerPolicyTest, EveryFailureIsBadAllocAndLeavesNothing) {
    EXPECT_GE(
        fail_every_allocation([&](std::pmr::memory_resource& memory) {
            EXPECT_EQ(
                judge_blockers(maker_.graph(), facts_, requests_, limits_, kNow, memory).size(),
                1U);
        }),
        3U);
}

TEST(BlockerPolicyRandomTest, EqualsTheDefinition) {
    std::mt19937 random(1);
    const auto below = [&](std::uint32_t limit) {
        return static_cast<std::uint32_t>(random() % limit);
    };
    std::size_t ended = 0;
    std::size_t spared = 0;
    for (int round = 0; round < 2000; ++round) {
        const std::uint32_t count = 2 + below(10);
        const Timestamp now = 100;
        const BlockerLimits limits{below(20), below(20)};
        const auto time = [&] { return below(15) == 0 ? kUnknownTime : Timestamp{below(105)}; };
        GraphMaker maker;
        std::vector<SessionFacts> facts;
        for (std::uint32_t i = 0; i < count; ++i) {
            maker.session(static_cast<std::int32_t>(below(8)), time());
            facts.push_back({below(5) != 0, below(5) == 0, below(4) != 0, below(2) == 0, time()});
        }
        for (std::uint32_t i = below(30); i > 0; --i)
            maker.edge(below(count), below(count), below(3) != 0, static_cast<LockMode>(below(9)));
        std::vector<BlockedRequest> requests(below(6));
        for (BlockedRequest& request : requests)
            request = {below(count), below(3),
                       below(4) == 0 ? LockMode{kExclusive} : kAccessExclusive, time(),
                       below(5) != 0};

        const LockGraph graph = maker.graph();
        Decisions expected;
        for (SessionIndex victim = 0; victim < count; ++victim) {
            const Session& session = graph.sessions[victim];
            const auto reached = [&](Timestamp start, Microseconds limit) {
                return start != 0 && start <= now && now - start >= limit;
            };
            if (session.pid == 0 || !facts[victim].client_backend || facts[victim].superuser ||
                !facts[victim].idle_in_transaction ||
                !reached(facts[victim].state_start, limits.min_idle) ||
                !reached(session.xact_start, limits.min_wait))
                continue;
            std::vector<std::tuple<Microseconds, Timestamp, std::uint32_t>> offences;
            std::uint32_t blocks = 0;
            for (SessionIndex waiter = 0; waiter < count; ++waiter) {
                for (const Edge& edge : graph.blockers_of(waiter)) {
                    if (edge.blocker != victim || waiter == victim)
                        continue;
                    ++blocks;
                    for (std::uint32_t r = 0; r < requests.size(); ++r) {
                        if (edge.holds && requests[r].session == waiter &&
                            requests[r].wanted == kAccessExclusive && requests[r].client_backend &&
                            reached(requests[r].wait_start, limits.min_wait))
                            offences.emplace_back(
                                -std::min(now - requests[r].wait_start, now - session.xact_start),
                                requests[r].wait_start, r);
                    }
                }
            }
            spared += offences.empty() ? 1 : 0;
            if (offences.empty())
                continue;
            ++ended;
            const auto& [minus_blocked_for, wait_start, request] =
                *std::min_element(offences.begin(), offences.end());
            expected.push_back(
                {victim, request, now - facts[victim].state_start, -minus_blocked_for, blocks});
        }
        std::stable_sort(expected.begin(), expected.end(), [&](const auto& a, const auto& b) {
            return a.blocked_for != b.blocked_for
                       ? a.blocked_for > b.blocked_for
                       : graph.sessions[a.victim].pid < graph.sessions[b.victim].pid;
        });

        TestMemory memory;
        const auto decisions = judge_blockers(graph, facts, requests, limits, now, memory);
        ASSERT_EQ(Decisions(decisions.begin(), decisions.end()), expected) << "round " << round;
    }
    EXPECT_GT(ended, 500U);
    EXPECT_GT(spared, 500U);
}

} // namespace
} // namespace lockguard::core
