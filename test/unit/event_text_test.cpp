#include "core/words/events.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockguard::core {
namespace {

EventLine nothing() {
    EventLine line = {};
    line.kind = "fuse_blown";
    line.id = 7;
    line.waited = line.stall = line.blocker_idle = -1;
    line.attempts = line.blocker_pid = -1;
    return line;
}

std::string line_of(const EventLine& line) {
    TestMemory memory;
    const std::string_view text = event_log_line(line, memory);
    EXPECT_EQ(text.data()[text.size()], '\0');
    return std::string(text);
}

TEST(EventLogLineTest, LeavesOutWhatIsUnknown) {
    EXPECT_EQ(line_of(nothing()), "kind=fuse_blown id=7");
}

TEST(EventLogLineTest, TellsEverything) {
    const EventLine line = {.kind = "blocker_terminated",
                            .id = 12,
                            .pid = 4712,
                            .database = "shop",
                            .role = "deploy",
                            .application = "migrate",
                            .command = "ALTER TABLE",
                            .relation = "relation 16402 of database 5",
                            .lock_mode = "AccessExclusiveLock",
                            .waited = 30'000'120,
                            .stall = 5,
                            .attempts = 3,
                            .blocker_pid = 4711,
                            .blocker_role = "app",
                            .blocker_application = "sidekiq",
                            .blocker_state = "idle in transaction",
                            .blocker_idle = 60'001'000,
                            .reason = "why"};
    EXPECT_EQ(line_of(line),
              R"(kind=blocker_terminated id=12 pid=4712 database="shop" user="deploy" )"
              R"(application="migrate" command="ALTER TABLE" )"
              R"(relation="relation 16402 of database 5" lock_mode="AccessExclusiveLock" )"
              R"(waited_ms=30000.120 stall_ms=0.005 attempts=3 blocker_pid=4711 )"
              R"(blocker_user="app" blocker_application="sidekiq" )"
              R"(blocker_state="idle in transaction" blocker_idle_ms=60001.000 reason="why")");
}

TEST(EventLogLineTest, NobodyForgesALine) {
    EventLine line = nothing();
    line.application = "a\" kind=\"b\nLOG:  c\\\x7f";
    EXPECT_EQ(line_of(line), R"(kind=fuse_blown id=7 application="a\" kind=\"b?LOG:  c\\?")");
}

TEST(EventLogLineTest, APreparedTransactionHasPidZero) {
    EventLine line = nothing();
    line.blocker_pid = 0;
    line.waited = 0;
    EXPECT_EQ(line_of(line), "kind=fuse_blown id=7 waited_ms=0.000 blocker_pid=0");
}

/// One holder, an ALTER TABLE behind it, readers behind that, and another tree.
class LockTreeTextTest : public testing::Test {
  protected:
    LockTreeTextTest() {
        maker_.session(4711);
        labels_.push_back({"psql", {}, {}, {}, -1});
        maker_.session(4712);
        labels_.push_back({"migrate", {}, "AccessExclusiveLock", "relation 16402", 30'000'000});
        maker_.edge(1, 0, true, kAccessShare);
        for (std::int32_t i = 0; i < 3; ++i) {
            const SessionIndex reader = maker_.session(5000 + i);
            labels_.push_back({{}, {}, "AccessShareLock", {}, -1});
            maker_.edge(reader, 1, false, kAccessExclusive);
        }
        maker_.session(0);
        labels_.push_back({"ignored", "stuck", {}, {}, -1});
        maker_.session(6000);
        labels_.push_back({"x\ny", {}, "ShareLock", "transaction 5\n", 0});
        maker_.edge(6, 5, true, kAccessShare);
    }

    std::string tree_of(SessionIndex session, std::size_t limit = 1000) {
        const auto rows = grow_lock_forest(maker_.graph(), maker_.xact_starts(), memory_);
        const std::string_view text = lock_tree_text(rows, labels_, session, limit, memory_);
        EXPECT_LE(text.size(), limit);
        EXPECT_EQ(text.data()[text.size()], '\0');
        EXPECT_FALSE(memory_.misused());
        return std::string(text);
    }

    GraphMaker maker_;
    std::vector<TreeLabel> labels_;
    TestMemory memory_;
};

const char* const kTree =
    "4711 \"psql\"\n"
    "└─ 4712 \"migrate\" wants AccessExclusiveLock on relation 16402 for 30 s\n"
    "   ├─ 5000 wants AccessShareLock\n"
    "   ├─ 5001 wants AccessShareLock\n"
    "   └─ 5002 wants AccessShareLock";

TEST_F(LockTreeTextTest, DrawsTheTreeThatTheSessionIsIn) {
    for (SessionIndex session = 0; session < 5; ++session)
        EXPECT_EQ(tree_of(session), kTree);
    for (SessionIndex session = 5; session < 7; ++session)
        EXPECT_EQ(
            tree_of(session),
            "0 prepared \"stuck\"\n└─ 6000 \"x?y\" wants ShareLock on transaction 5? for 0 ms");
    EXPECT_EQ(tree_of(7), "");
}

TEST_F(LockTreeTextTest, IsCutBetweenLines) {
    const std::string whole = kTree;
    EXPECT_EQ(tree_of(0, whole.size()), whole);
    std::size_t cut = 0;
    for (std::size_t limit = 0; limit < whole.size(); ++limit) {
        const std::string text = tree_of(0, limit);
        if (limit < 15)
            continue;
        const std::size_t last_line = text.rfind("... and ");
        ASSERT_NE(last_line, std::string::npos) << limit;
        EXPECT_EQ(text.substr(0, last_line), whole.substr(0, last_line)) << limit;
        const auto lines = std::count(text.begin(), text.end(), '\n');
        EXPECT_EQ(text.substr(last_line), "... and " + std::to_string(5 - lines) + " more");
        ++cut;
    }
    EXPECT_GT(cut, 100U);
}

TEST(CulpritTreeTextTest, TheStatementStandsUnderWhoIsInItsWay) {
    TestMemory memory;
    const TreeLabel statement = {"ALTER TABLE", {}, "AccessExclusiveLock", "public.cart", 2000000};
    const auto draw = [&](std::span<const Culprit> culprits) {
        return std::string(culprit_tree_text(culprits, 4712, statement, 1000, memory));
    };
    std::vector<Culprit> culprits(1);
    culprits[0].pid = 4711;
    culprits[0].application = "psql";
    EXPECT_EQ(draw(culprits),
              "4711 \"psql\"\n"
              "└─ 4712 \"ALTER TABLE\" wants AccessExclusiveLock on public.cart for 2.0 s");

    culprits[0].pid = 0;
    culprits[0].gid = "stuck";
    EXPECT_EQ(draw(culprits),
              "0 prepared \"stuck\"\n"
              "└─ 4712 \"ALTER TABLE\" wants AccessExclusiveLock on public.cart for 2.0 s");

    EXPECT_EQ(draw({}), "");

    // All but the first ones are left out.
    culprits.assign(kDrawnCulprits + 1, culprits[0]);
    for (std::size_t i = 0; i < culprits.size(); i++)
        culprits[i].pid = static_cast<std::int32_t>(5000 - i);
    EXPECT_EQ(draw(culprits).substr(0, 4), std::to_string(5000 - (kDrawnCulprits - 1)));
    EXPECT_FALSE(memory.misused());

    // Each allocation may fail; the graph and the forest stay with the memory.
    const std::size_t allocations = memory.allocations();
    draw(culprits);
    for (std::size_t i = 0; i < memory.allocations() - allocations; i++) {
        TestMemory short_memory(i);
        EXPECT_THROW(culprit_tree_text(culprits, 4712, statement, 1000, short_memory),
                     std::bad_alloc);
        EXPECT_FALSE(short_memory.misused());
    }
}

TEST_F(LockTreeTextTest, EveryFailureIsBadAllocAndLeavesNothing) {
    const auto rows = grow_lock_forest(maker_.graph(), maker_.xact_starts(), memory_);
    EXPECT_GE(fail_every_allocation([&](std::pmr::memory_resource& memory) {
                  EXPECT_FALSE(lock_tree_text(rows, labels_, 0, 1000, memory).empty());
              }),
              2U);
    EXPECT_GE(fail_every_allocation([&](std::pmr::memory_resource& memory) {
                  EventLine line = nothing();
                  line.application = "a name that is longer than any string kept in place";
                  EXPECT_FALSE(event_log_line(line, memory).empty());
              }),
              2U);
}

} // namespace
} // namespace lockguard::core
