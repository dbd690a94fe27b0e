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
    return std::tie(a.victim, a.request, a.idle, a.blocked_for, a.blocks, a.spared, a.remedy) ==
           std::tie(b.victim, b.request, b.idle, b.blocked_for, b.blocks, b.spared, b.remedy);
}

std::ostream& operator<<(std::ostream& out, const BlockerDecision& d) {
    return out << "victim " << d.victim << " request " << d.request << " idle " << d.idle
               << " blocked_for " << d.blocked_for << " blocks " << d.blocks << " spared "
               << int{static_cast<std::uint8_t>(d.spared)} << " remedy "
               << int{static_cast<std::uint8_t>(d.remedy)};
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
        requests_.push_back({alter_, 16402, kAccessExclusive, kNow - 100, Requester::client});
    }

    SessionIndex session(std::int32_t pid, Timestamp xact_start) {
        facts_.push_back({.client_backend = true,
                          .superuser = false,
                          .idle_in_transaction = false,
                          .aborted = false,
                          .state_start = kNow - 10'000,
                          .xact_start = xact_start});
        return sessions_.emplace_back(maker_.session(pid));
    }

    Decisions judge(Timestamp now = kNow) {
        const std::size_t blocks_before = memory_.live_blocks();
        const Judgement judgement =
            judge_blockers(maker_.graph(), facts_, requests_, limits_, now, memory_);
        const bool any = !judgement.to_end.empty() || !judgement.to_spare.empty();
        EXPECT_EQ(memory_.live_blocks() - blocks_before, any ? 1U : 0U);
        EXPECT_FALSE(memory_.misused());
        spared_ = {judgement.to_spare.begin(), judgement.to_spare.end()};
        next_due_ = judgement.next_due;
        return {judgement.to_end.begin(), judgement.to_end.end()};
    }

    /// The reason why the victim alone is spared; none where it is not.
    SpareReason reason() {
        EXPECT_EQ(judge(), Decisions{});
        EXPECT_LE(spared_.size(), 1U);
        return spared_.empty() ? SpareReason::none : spared_[0].spared;
    }

    /// Replaces the graph: for changes of the victim's pid, and of its xact_start.
    void replace_victim(std::int32_t pid, Timestamp xact_start) {
        maker_ = GraphMaker();
        maker_.session(pid);
        maker_.session(4712);
        facts_[victim_].xact_start = xact_start;
        maker_.edge(alter_, victim_, true, kAccessShare);
    }

    GraphMaker maker_;
    std::vector<SessionIndex> sessions_;
    std::vector<SessionFacts> facts_;
    std::vector<BlockedRequest> requests_;
    BlockerLimits limits_ = kLimits;
    Decisions spared_;           // of the latest judge()
    Microseconds next_due_ = -1; // likewise
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

TEST_F(BlockerPolicyTest, ExemptRequestsNeverCount) {
    requests_[0].requester = Requester::exempt;
    const SessionIndex reader = session(5001, kNow - 10);
    facts_[reader].waiting_client = true;
    maker_.edge(reader, alter_, false);
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(spared_, Decisions{});
    EXPECT_EQ(next_due_, -1);
}

TEST_F(BlockerPolicyTest, ABackgroundRequestCountsOnceAClientWaitsBehindIt) {
    requests_[0].requester = Requester::background;
    facts_[alter_].client_backend = false;
    EXPECT_EQ(reason(), SpareReason::no_client_waits);
    EXPECT_EQ(spared_, Decisions({{victim_, 0, 700, 100, 1, SpareReason::no_client_waits}}));

    // Another background process behind it changes nothing, a client behind that one does.
    const SessionIndex other = session(5000, kNow - 10);
    const SessionIndex reader = session(5001, kNow - 10);
    maker_.edge(other, alter_, false);
    facts_[reader].waiting_client = true; // for something else
    EXPECT_EQ(reason(), SpareReason::no_client_waits);
    maker_.edge(reader, other);
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 1}}));
    facts_[reader].waiting_client = false;
    EXPECT_EQ(reason(), SpareReason::no_client_waits);
    facts_[other].waiting_client = true;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 1}}));

    // All other clauses protect the session as well, and go before.
    facts_[victim_].superuser = true;
    EXPECT_EQ(reason(), SpareReason::superuser);
    facts_[other].waiting_client = false;
    EXPECT_EQ(reason(), SpareReason::superuser);
    facts_[victim_].superuser = false;
    requests_[0].wait_start = kNow - 49;
    EXPECT_EQ(reason(), SpareReason::none);
    EXPECT_EQ(next_due_, 1);
}

TEST_F(BlockerPolicyTest, TheRequesterIsNoClientBehindItself) {
    requests_[0].requester = Requester::background;
    facts_[alter_].waiting_client = true; // on a cycle it is behind itself
    maker_.edge(victim_, alter_, false);
    EXPECT_EQ(reason(), SpareReason::no_client_waits);
}

TEST_F(BlockerPolicyTest, ARequestThatCountsGoesBeforeOneThatDoesNot) {
    const SessionIndex apply = session(4713, kNow - 300);
    maker_.edge(apply, victim_);
    requests_.push_back({apply, 16402, kAccessExclusive, kNow - 300, Requester::background});
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 2}}));
    std::reverse(requests_.begin(), requests_.end());
    EXPECT_EQ(judge(), Decisions({{victim_, 1, 700, 100, 2}}));
    // Not due yet: until then the other one is told of.
    requests_[1].wait_start = kNow - 20;
    EXPECT_EQ(reason(), SpareReason::no_client_waits);
    EXPECT_EQ(next_due_, 30);
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
    limits_ = {.min_idle = 0, .min_wait = 0};
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
    requests_.push_back({2, 16402, kAccessExclusive, kNow - 200, Requester::client});
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
    requests_.push_back({other, 16402, kAccessExclusive, kNow - 300, Requester::client});
    requests_.push_back({alter_, 16403, kAccessExclusive, kNow - 200, Requester::client});
    EXPECT_EQ(judge(), Decisions({{victim_, 1, 700, 300, 2}}));
    std::reverse(requests_.begin(), requests_.end());
    EXPECT_EQ(judge(), Decisions({{victim_, 1, 700, 300, 2}}));
}

TEST_F(BlockerPolicyTest, BlockedEquallyLongTheRequestThatHasWaitedLongest) {
    replace_victim(4711, kNow - 80); // younger than all requests
    requests_[0].wait_start = kNow - 300;
    requests_.push_back({alter_, 1, kAccessExclusive, kNow - 400, Requester::client});
    requests_.push_back({alter_, 2, kAccessExclusive, kNow - 400, Requester::client});
    requests_.push_back({alter_, 3, kAccessExclusive, kNow - 200, Requester::client});
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

// ---- Those who are spared

TEST_F(BlockerPolicyTest, EachReasonSparesInItsOrder) {
    // From the last one asked to the first: each one that is added takes over.
    SessionFacts& facts = facts_[victim_];
    EXPECT_EQ(judge().size(), 1U);
    facts.shares_snapshot = true;
    EXPECT_EQ(reason(), SpareReason::shared_snapshot);
    EXPECT_EQ(spared_, Decisions({{victim_, 0, 700, 100, 1, SpareReason::shared_snapshot}}));
    facts.exempt_application = true;
    EXPECT_EQ(reason(), SpareReason::exempt_application);
    facts.exempt_database = true;
    EXPECT_EQ(reason(), SpareReason::exempt_database);
    facts.exempt_role = true;
    EXPECT_EQ(reason(), SpareReason::exempt_role);
    facts.protected_by_setting = true;
    EXPECT_EQ(reason(), SpareReason::protected_session);
    facts.superuser = true;
    EXPECT_EQ(reason(), SpareReason::superuser);
    facts.client_backend = false;
    EXPECT_EQ(reason(), SpareReason::background_process);
    facts.replication = true;
    EXPECT_EQ(reason(), SpareReason::replication);
}

TEST_F(BlockerPolicyTest, NobodyIsSparedWhoWouldNotBeEnded) {
    facts_[victim_].superuser = true;
    const auto nothing_is_said = [&] {
        EXPECT_EQ(judge(), Decisions{});
        EXPECT_EQ(spared_, Decisions{});
    };
    facts_[victim_].state_start = kNow - 599;
    nothing_is_said();
    facts_[victim_].state_start = kNow - 600;
    EXPECT_EQ(reason(), SpareReason::superuser);
    requests_[0].wait_start = kNow - 49;
    nothing_is_said();
    requests_[0].wait_start = kNow - 50;
    EXPECT_EQ(reason(), SpareReason::superuser);
    facts_[victim_].idle_in_transaction = false;
    nothing_is_said();
    facts_[victim_].idle_in_transaction = true;
    maker_.edge(alter_, victim_, false, kAccessExclusive);
    nothing_is_said();
}

TEST_F(BlockerPolicyTest, APreparedTransactionIsReported) {
    facts_[victim_] = {};
    replace_victim(0, kNow - 900);
    facts_[victim_].prepared = true;
    facts_[victim_].state_start = kNow - 600;
    EXPECT_EQ(reason(), SpareReason::prepared_transaction);
    EXPECT_EQ(spared_[0].idle, 600);
    facts_[victim_].state_start = kNow - 599;
    EXPECT_EQ(reason(), SpareReason::none);
    EXPECT_EQ(next_due_, 1);
}

TEST_F(BlockerPolicyTest, AStalledClientIsEndedOnlyWhereThatIsAllowed) {
    SessionFacts& facts = facts_[victim_];
    facts.idle_in_transaction = false;
    facts.state_start = kNow - 850; // when its statement began
    EXPECT_EQ(reason(), SpareReason::none);
    facts.stalled = true;
    facts.stalled_since = kNow - 599;
    EXPECT_EQ(reason(), SpareReason::none);
    facts.stalled_since = kNow - 600;
    EXPECT_EQ(reason(), SpareReason::stalled_client);
    limits_.stalled_clients = true;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 600, 100, 1}}));
    facts.stalled_since = kNow - 599;
    EXPECT_EQ(reason(), SpareReason::none);
    // All other clauses protect it as well.
    facts.stalled_since = kNow - 600;
    facts.superuser = true;
    EXPECT_EQ(reason(), SpareReason::superuser);
    facts.superuser = false;
    requests_[0].wait_start = kNow - 49;
    EXPECT_EQ(reason(), SpareReason::none);
}

TEST_F(BlockerPolicyTest, SparedSessionsComeLongestBlockedFirst) {
    const SessionIndex boss = session(10, kNow - 60);
    facts_[boss].idle_in_transaction = true;
    facts_[boss].superuser = true;
    facts_[victim_].exempt_role = true;
    maker_.edge(alter_, boss, true, kAccessShare);
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(spared_, Decisions({{victim_, 0, 700, 100, 1, SpareReason::exempt_role},
                                  {boss, 0, 10'000, 60, 1, SpareReason::superuser}}));
}

TEST_F(BlockerPolicyTest, EveryReasonHasWords) {
    for (std::size_t i = 0; i < kSpareReasons; ++i)
        EXPECT_FALSE(spare_reason_text(static_cast<SpareReason>(i)).empty()) << i;
}

// ---- Which requests count

TEST_F(BlockerPolicyTest, OnlyTheModesOfTheSettingCount) {
    for (LockMode in_setting = 1; in_setting < kMaxLockMode; ++in_setting) {
        limits_.request_modes = mode_bit(in_setting);
        for (LockMode mode = 0; mode <= kMaxLockMode; ++mode) {
            requests_[0].wanted = mode;
            EXPECT_EQ(judge().size(), mode == in_setting ? 1U : 0U)
                << int{in_setting} << " " << int{mode};
        }
    }
    limits_.request_modes = mode_bit(kShare) | mode_bit(kExclusive);
    for (const LockMode mode : {kShare, kExclusive}) {
        requests_[0].wanted = mode;
        EXPECT_EQ(judge().size(), 1U) << int{mode};
    }
    limits_.request_modes = 0;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(BlockerPolicyTest, WhoWaitsForATransactionCountsIfThatIsWanted) {
    requests_[0].for_transaction = true;
    requests_[0].wanted = kShare;
    EXPECT_EQ(judge(), Decisions{});
    limits_.request_modes = mode_bit(kShare); // this is about relations
    EXPECT_EQ(judge(), Decisions{});
    limits_.request_modes = 0;
    limits_.concurrently = true;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 1}}));
    facts_[victim_].exempt_role = true;
    EXPECT_EQ(reason(), SpareReason::exempt_role);
}

// ---- Statements that are cancelled

/// The victim's statement has run for 700.
class ActiveBlockerTest : public BlockerPolicyTest {
  protected:
    ActiveBlockerTest() {
        facts_[victim_].idle_in_transaction = false;
        facts_[victim_].active = true;
        limits_.cancel_active = true;
        limits_.min_active = 650;
    }

    void stall(Timestamp since) {
        facts_[victim_].stalled = true;
        facts_[victim_].stalled_since = since;
    }

    static BlockerDecision cancel(Microseconds active, SpareReason spared = SpareReason::none) {
        return {0, 0, active, 100, 1, spared, BlockerRemedy::cancel};
    }
};

TEST_F(ActiveBlockerTest, IsCancelled) {
    EXPECT_EQ(judge(), Decisions({cancel(700)}));
    limits_.end_idle = false;
    EXPECT_EQ(judge(), Decisions({cancel(700)}));
    limits_.cancel_active = false;
    EXPECT_EQ(judge(), Decisions{});
    limits_.end_idle = true;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(spared_, Decisions{}) << "without the setting it is no offence";
}

TEST_F(ActiveBlockerTest, TheLimitIsReachedToTheMicrosecond) {
    limits_.min_active = 700;
    EXPECT_EQ(judge(), Decisions({cancel(700)}));
    limits_.min_active = 701;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 1);
    limits_.min_active = 0;
    facts_[victim_].state_start = 0; // unknown
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, -1);
    facts_[victim_].state_start = kNow + 1;
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(ActiveBlockerTest, ATransactionThatBeganLaterCounts) {
    replace_victim(4711, kNow - 640); // a procedure that commits
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 10);
    replace_victim(4711, kNow - 650);
    EXPECT_EQ(judge(), Decisions({cancel(650)}));
    replace_victim(4711, kUnknownTime);
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, -1);
}

TEST_F(ActiveBlockerTest, BlocksForLongEnough) {
    limits_.min_wait = 101;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 1);
}

TEST_F(ActiveBlockerTest, StandingAheadIsNoOffence) {
    maker_ = GraphMaker();
    maker_.session(4711, kNow - 900);
    maker_.session(4712, kNow - 100);
    maker_.edge(alter_, victim_, false);
    EXPECT_EQ(judge(), Decisions{});
}

TEST_F(ActiveBlockerTest, NeverForWhoWaitsForItsTransaction) {
    limits_.concurrently = true;
    requests_[0].for_transaction = true;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(spared_, Decisions{});
    EXPECT_EQ(next_due_, -1);
}

TEST_F(ActiveBlockerTest, IsSparedForTheSameReasons) {
    const auto spared_with = [this](auto change) {
        const SessionFacts before = facts_[victim_];
        change(facts_[victim_]);
        const SpareReason found = reason();
        EXPECT_EQ(spared_.empty() ? BlockerRemedy::end : spared_[0].remedy, BlockerRemedy::cancel);
        facts_[victim_] = before;
        return found;
    };
    using Facts = SessionFacts;
    EXPECT_EQ(spared_with([](Facts& f) { f.client_backend = false; }),
              SpareReason::background_process);
    EXPECT_EQ(spared_with([](Facts& f) { f.replication = true; }), SpareReason::replication);
    EXPECT_EQ(spared_with([](Facts& f) { f.superuser = true; }), SpareReason::superuser);
    EXPECT_EQ(spared_with([](Facts& f) { f.protected_by_setting = true; }),
              SpareReason::protected_session);
    EXPECT_EQ(spared_with([](Facts& f) { f.exempt_role = true; }), SpareReason::exempt_role);
    EXPECT_EQ(spared_with([](Facts& f) { f.exempt_database = true; }),
              SpareReason::exempt_database);
    EXPECT_EQ(spared_with([](Facts& f) { f.exempt_application = true; }),
              SpareReason::exempt_application);
    EXPECT_EQ(spared_with([](Facts& f) { f.shares_snapshot = true; }),
              SpareReason::shared_snapshot);
    EXPECT_EQ(spared_with([](Facts& f) { f.committing = true; }), SpareReason::committing);
    requests_[0].requester = Requester::background;
    EXPECT_EQ(reason(), SpareReason::no_client_waits);
}

TEST_F(ActiveBlockerTest, AnIdleSessionIsNotCancelled) {
    facts_[victim_].active = false;
    facts_[victim_].idle_in_transaction = true;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 700, 100, 1}}));
    limits_.end_idle = false;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(spared_, Decisions{});
    EXPECT_EQ(next_due_, -1);
}

TEST_F(ActiveBlockerTest, AStalledOneIsNotCancelled) {
    stall(kNow - 600); // min_idle
    EXPECT_EQ(reason(), SpareReason::stalled_client);
    EXPECT_EQ(spared_[0].remedy, BlockerRemedy::end);
    limits_.stalled_clients = true;
    EXPECT_EQ(judge(), Decisions({{victim_, 0, 600, 100, 1}}));
    limits_.end_idle = false;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(spared_, Decisions{});
    // It reads from its client, but goes on.
    stall(kNow - 599);
    EXPECT_EQ(judge(), Decisions({cancel(700)}));
}

TEST_F(ActiveBlockerTest, WhatIsDueFirstCounts) {
    stall(kNow - 590); // 10 to go
    limits_.stalled_clients = true;
    limits_.min_active = 705; // 5 to go
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 5);
    EXPECT_EQ(judge(kNow + 5),
              Decisions({{0, 0, 705, 105, 1, SpareReason::none, BlockerRemedy::cancel}}));
    limits_.min_active = 800;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 10);
    EXPECT_EQ(judge(kNow + 10), Decisions({{0, 0, 600, 110, 1}}));
}

// ---- When to look again

TEST_F(BlockerPolicyTest, NextDueIsWhenBothTimesAreReached) {
    EXPECT_EQ(judge().size(), 1U);
    EXPECT_EQ(next_due_, -1);
    facts_[victim_].state_start = kNow - 590; // 10 to go
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 10);
    requests_[0].wait_start = kNow - 20; // 30 to go
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 30);
    replace_victim(4711, kNow - 10); // 40 to go
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 40);
    replace_victim(4711, kUnknownTime);
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, -1);
}

TEST_F(BlockerPolicyTest, NextDueIsTheEarliest) {
    const SessionIndex other = session(10, kNow - 900);
    facts_[other].idle_in_transaction = true;
    facts_[other].state_start = kNow - 580;
    maker_.edge(alter_, other, true, kAccessShare);
    EXPECT_EQ(judge().size(), 1U);
    EXPECT_EQ(next_due_, 20);
    facts_[victim_].state_start = kNow - 595;
    EXPECT_EQ(judge(), Decisions{});
    EXPECT_EQ(next_due_, 5);
}

TEST_F(BlockerPolicyTest, EveryFailureIsBadAllocAndLeavesNothing) {
    EXPECT_GE(fail_every_allocation([&](std::pmr::memory_resource& memory) {
                  EXPECT_EQ(judge_blockers(maker_.graph(), facts_, requests_, limits_, kNow, memory)
                                .to_end.size(),
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
    std::size_t dues = 0;
    for (int round = 0; round < 4000; ++round) {
        const std::uint32_t count = 2 + below(10);
        const Timestamp now = 100;
        const BlockerLimits limits{below(20), below(20)};
        bool future = false; // some time is not reached yet
        const auto time = [&] {
            if (below(15) == 0)
                return kUnknownTime;
            const Timestamp at = below(105);
            future |= at > now;
            return at;
        };
        GraphMaker maker;
        std::vector<SessionFacts> facts;
        for (std::uint32_t i = 0; i < count; ++i) {
            maker.session(static_cast<std::int32_t>(below(8)));
            const Timestamp xact_start = time();
            facts.push_back(
                {below(5) != 0, below(5) == 0, below(4) != 0, below(2) == 0, time(), xact_start});
            facts.back().waiting_client = below(6) == 0;
        }
        for (std::uint32_t i = below(30); i > 0; --i)
            maker.edge(below(count), below(count), below(3) != 0, static_cast<LockMode>(below(9)));
        std::vector<BlockedRequest> requests(below(6));
        for (BlockedRequest& request : requests)
            request = {below(count), below(3),
                       below(4) == 0 ? LockMode{kExclusive} : kAccessExclusive, time(),
                       static_cast<Requester>(below(3))};

        const LockGraph graph = maker.graph();
        // Is `session` behind `blocker`? By its blockers, theirs, and so on.
        const auto is_behind = [&](SessionIndex session, SessionIndex blocker) {
            std::vector<SessionIndex> reached = {session};
            for (std::size_t i = 0; i < reached.size(); ++i) {
                for (const Edge& edge : graph.blockers_of(reached[i])) {
                    if (edge.blocker == blocker)
                        return true;
                    if (std::find(reached.begin(), reached.end(), edge.blocker) == reached.end())
                        reached.push_back(edge.blocker);
                }
            }
            return false;
        };
        const auto counts = [&](const BlockedRequest& request) {
            if (request.requester != Requester::background)
                return request.requester == Requester::client;
            for (SessionIndex s = 0; s < count; ++s) {
                if (facts[s].waiting_client && s != request.session &&
                    is_behind(s, request.session))
                    return true;
            }
            return false;
        };
        Decisions expected;
        for (SessionIndex victim = 0; victim < count; ++victim) {
            const auto reached = [&](Timestamp start, Microseconds limit) {
                return start != 0 && start <= now && now - start >= limit;
            };
            if (graph.sessions[victim].pid == 0 || !facts[victim].client_backend ||
                facts[victim].superuser || !facts[victim].idle_in_transaction ||
                !reached(facts[victim].state_start, limits.min_idle) ||
                !reached(facts[victim].xact_start, limits.min_wait))
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
                            requests[r].wanted == kAccessExclusive && counts(requests[r]) &&
                            reached(requests[r].wait_start, limits.min_wait))
                            offences.emplace_back(-std::min(now - requests[r].wait_start,
                                                            now - facts[victim].xact_start),
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
        const Judgement judgement = judge_blockers(graph, facts, requests, limits, now, memory);
        const auto& ended_now = judgement.to_end;
        ASSERT_EQ(Decisions(ended_now.begin(), ended_now.end()), expected) << "round " << round;
        for (const BlockerDecision& decision : judgement.to_spare)
            ASSERT_EQ(decision.spared,
                      spare_reason(facts[decision.victim], limits, decision.remedy) !=
                              SpareReason::none
                          ? spare_reason(facts[decision.victim], limits, decision.remedy)
                          : SpareReason::no_client_waits);
        if (judgement.next_due >= 0 && !future) {
            // A moment earlier nothing changes, and at that time somebody more is in the lists.
            const auto listed = [&](Timestamp at) {
                const Judgement later = judge_blockers(graph, facts, requests, limits, at, memory);
                // Who is spared for want of a client may be judged once more.
                return 2 * (later.to_end.size() + later.to_spare.size()) -
                       static_cast<std::size_t>(std::count_if(
                           later.to_spare.begin(), later.to_spare.end(), [](const auto& decision) {
                               return decision.spared == SpareReason::no_client_waits;
                           }));
            };
            ASSERT_GT(judgement.next_due, 0);
            ASSERT_EQ(listed(now + judgement.next_due - 1), listed(now)) << "round " << round;
            ASSERT_GT(listed(now + judgement.next_due), listed(now)) << "round " << round;
            ++dues;
        }
    }
    EXPECT_GT(ended, 500U);
    EXPECT_GT(spared, 500U);
    EXPECT_GT(dues, 100U);
}

} // namespace
} // namespace lockguard::core
