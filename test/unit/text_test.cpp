#include "core/words/terminations.h"
#include "core/words/waits.h"

#include "text_checks.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace lockguard::core {
namespace {

constexpr Microseconds kMs = 1000;
constexpr Microseconds kS = 1000 * kMs;
constexpr Microseconds kMin = 60 * kS;
constexpr Microseconds kH = 60 * kMin;
constexpr Microseconds kD = 24 * kH;

std::string duration(Microseconds microseconds) {
    return checked([&](auto& memory) { return duration_text(microseconds, memory); });
}

TEST(DurationTextTest, TheExamples) {
    EXPECT_EQ(duration(350 * kMs), "350 ms");
    EXPECT_EQ(duration(2 * kS), "2.0 s");
    EXPECT_EQ(duration(30 * kS), "30 s");
    EXPECT_EQ(duration(10 * kMin), "10 min");
    EXPECT_EQ(duration(3 * kH), "3 h");
    EXPECT_EQ(duration(4 * kD), "4 d");
}

TEST(DurationTextTest, EveryBoundary) {
    EXPECT_EQ(duration(std::numeric_limits<Microseconds>::min()), "0 ms");
    EXPECT_EQ(duration(-1), "0 ms");
    EXPECT_EQ(duration(0), "0 ms");
    EXPECT_EQ(duration(kMs - 1), "0 ms");
    EXPECT_EQ(duration(kMs), "1 ms");
    EXPECT_EQ(duration(99 * kMs), "99 ms");
    EXPECT_EQ(duration(100 * kMs), "100 ms");
    EXPECT_EQ(duration(357 * kMs), "350 ms");
    EXPECT_EQ(duration(kS - 1), "990 ms");
    EXPECT_EQ(duration(kS), "1.0 s");
    EXPECT_EQ(duration(1099 * kMs), "1.0 s");
    EXPECT_EQ(duration(3100 * kMs), "3.1 s");
    EXPECT_EQ(duration(10 * kS - 1), "9.9 s");
    EXPECT_EQ(duration(10 * kS), "10 s");
    EXPECT_EQ(duration(kMin - 1), "59 s");
    EXPECT_EQ(duration(kMin), "1 min");
    EXPECT_EQ(duration(kH - 1), "59 min");
    EXPECT_EQ(duration(kH), "1 h");
    EXPECT_EQ(duration(kD - 1), "23 h");
    EXPECT_EQ(duration(kD), "1 d");
    EXPECT_EQ(duration(std::numeric_limits<Microseconds>::max()), "106751991 d");
}

TEST(KeepTextTest, CopiesAndEndsWithNul) {
    char source[] = "abc";
    const std::string kept = checked([&](auto& memory) {
        const std::string_view copy = keep_text({source, 3}, memory);
        source[0] = 'x';
        return copy;
    });
    EXPECT_EQ(kept, "abc");
    EXPECT_EQ(checked([](auto& memory) { return keep_text({}, memory); }), "");
}

Termination termination() {
    return {.victim_pid = 4711,
            .role = "shop",
            .database = "store",
            .application = "sidekiq",
            .aborted = false,
            .idle = 2 * kMin,
            .blocked_pid = 4712,
            .blocked_command = "ALTER TABLE",
            .blocked_mode = "AccessExclusiveLock",
            .relation = 16402,
            .blocked_for = 30 * kS,
            .others_blocked = 0};
}

std::string detail_of(const Termination& t) {
    return checked([&](auto& memory) { return victim_detail(t, memory); });
}

std::string log_line_of(const Termination& t) {
    return checked([&](auto& memory) { return termination_log_line(t, memory); });
}

TEST(VictimTextTest, TheExampleOfTheDesign) {
    EXPECT_EQ(detail_of(termination()),
              "pg_lockguard: idle in transaction for 2 min while blocking PID 4712 (ALTER TABLE, "
              "AccessExclusiveLock on relation 16402) for 30 s.");
}

TEST(VictimTextTest, Variants) {
    Termination t = termination();
    t.aborted = true;
    t.blocked_command = {};
    t.relation = 4294967295U;
    t.others_blocked = 3; // other sessions are no business of the victim's
    EXPECT_EQ(detail_of(t),
              "pg_lockguard: idle in transaction (aborted) for 2 min while blocking PID 4712 "
              "(AccessExclusiveLock on relation 4294967295) for 30 s.");
    t.blocked_mode = {};
    EXPECT_EQ(detail_of(t), "pg_lockguard: idle in transaction (aborted) for 2 min while blocking "
                            "PID 4712 (lock on relation 4294967295) for 30 s.");
}

TEST(VictimTextTest, AStalledClient) {
    Termination t = termination();
    t.stalled = true;
    EXPECT_EQ(detail_of(t),
              "pg_lockguard: waiting for its client in a statement for 2 min while blocking PID "
              "4712 (ALTER TABLE, AccessExclusiveLock on relation 16402) for 30 s.");
}

TEST(VictimTextTest, AStatement) {
    Termination t = termination();
    t.active = true;
    t.idle = 6 * kMin;
    EXPECT_EQ(detail_of(t),
              "pg_lockguard: at work on one statement for 6 min while blocking PID 4712 (ALTER "
              "TABLE, AccessExclusiveLock on relation 16402) for 30 s.");
    const std::string_view hint = cancel_hint();
    EXPECT_TRUE(hint.starts_with("Roll back and repeat the transaction. "));
    EXPECT_TRUE(hint.ends_with("."));
    EXPECT_EQ(std::strlen(hint.data()), hint.size());
}

TEST(VictimTextTest, OfWhomItsTransactionIsInTheWay) {
    Termination t = termination();
    t.relation = 0;
    t.blocked_command = "CREATE INDEX";
    t.blocked_mode = "ShareLock";
    EXPECT_EQ(detail_of(t),
              "pg_lockguard: idle in transaction for 2 min while blocking PID 4712 (CREATE INDEX, "
              "which waits for this transaction to end) for 30 s.");
}

TEST(VictimTextTest, Hint) {
    const std::string_view hint = victim_hint();
    EXPECT_TRUE(hint.starts_with("The transaction was rolled back. "));
    EXPECT_TRUE(hint.ends_with("."));
    EXPECT_EQ(std::strlen(hint.data()), hint.size());
}

TEST(TerminationLogLineTest, NamesTheVictimAndWhomItBlocked) {
    const std::string offence = ": idle in transaction for 2 min while blocking PID 4712 (ALTER "
                                "TABLE, AccessExclusiveLock on relation 16402) for 30 s";
    EXPECT_EQ(log_line_of(termination()),
              "PID 4711 (user shop, database store, app \"sidekiq\")" + offence);
    Termination t = termination();
    t.others_blocked = 1;
    EXPECT_EQ(log_line_of(t), "PID 4711 (user shop, database store, app \"sidekiq\")" + offence +
                                  ", and 1 more session");
    t.others_blocked = 7;
    t.application = {};
    EXPECT_EQ(log_line_of(t),
              "PID 4711 (user shop, database store)" + offence + ", and 7 more sessions");
    t.role = {};
    EXPECT_EQ(log_line_of(t), "PID 4711 (database store)" + offence + ", and 7 more sessions");
    t.database = {};
    EXPECT_EQ(log_line_of(t), "PID 4711" + offence + ", and 7 more sessions");
    t.application = "x";
    EXPECT_EQ(log_line_of(t), "PID 4711 (app \"x\")" + offence + ", and 7 more sessions");
}

TEST(TerminationLogLineTest, APreparedTransactionHasNoPid) {
    Termination t = termination();
    t.victim_pid = 0;
    t.prepared_xid = 745;
    t.application = {};
    EXPECT_EQ(
        log_line_of(t),
        "prepared transaction 745 (user shop, database store): prepared for at least 2 min while "
        "blocking PID 4712 (ALTER TABLE, AccessExclusiveLock on relation 16402) for 30 s");
}

TEST(TerminationLogLineTest, IsOneLine) {
    Termination t = termination();
    t.role = "a\nb";
    t.database = "c\rd";
    t.application = "e\n\"f";
    EXPECT_TRUE(log_line_of(t).starts_with("PID 4711 (user a?b, database c?d, app \"e?\"\"f\"): "));
}

std::string step_text(NextStep step, Microseconds within, bool against_wraparound = false) {
    return checked(
        [&](auto& memory) { return next_step_text(step, within, against_wraparound, memory); });
}

TEST(NextStepTextTest, EveryStep) {
    EXPECT_EQ(step_text(NextStep::try_locks, -1), "takes its locks if they are free");
    EXPECT_EQ(step_text(NextStep::await_holders, 250 * kMs),
              "tries again when a holder's transaction ends; looks again within 250 ms");
    EXPECT_EQ(step_text(NextStep::await_holders, 250 * kMs, true),
              "waits for an autovacuum worker against wraparound, which does not give way; looks "
              "again within 250 ms");
    EXPECT_EQ(step_text(NextStep::retry, 10 * kMs), "tries again within 10 ms");
    EXPECT_EQ(step_text(NextStep::retry, -1), "tries again");
    EXPECT_EQ(step_text(NextStep::stand_in_queue, 50 * kMs),
              "stands in the lock queue for at most 50 ms");
    EXPECT_EQ(step_text(NextStep::finish, -1), "runs: it has its locks");
    EXPECT_EQ(step_text(NextStep::end_holders, -1), "ends the sessions that hold the lock");
}

Eviction eviction() {
    return {4712, "ALTER TABLE", "AccessExclusiveLock", 16402, 30 * kS};
}

TEST(EvictionTextTest, TellsWhoAndWhy) {
    Eviction e = eviction();
    const auto text = [&] {
        return checked([&](auto& memory) { return eviction_detail(e, memory); });
    };
    EXPECT_EQ(text(), "pg_lockguard: ended by PID 4712, whose ALTER TABLE waited 30 s for "
                      "AccessExclusiveLock on relation 16402 (pg_lockguard.ddl_on_timeout = "
                      "terminate).");
    e.relation = 0;
    EXPECT_EQ(text(), "pg_lockguard: ended by PID 4712, whose ALTER TABLE waited 30 s for "
                      "AccessExclusiveLock (pg_lockguard.ddl_on_timeout = terminate).");
    e.decided_by = 4715;
    EXPECT_EQ(text(), "pg_lockguard: ended by PID 4712, whose ALTER TABLE waited 30 s for "
                      "AccessExclusiveLock (pg_lockguard_decide() by PID 4715).");
}

TEST(TextMemoryTest, EveryFailureIsBadAllocAndLeavesNothing) {
    using Memory = std::pmr::memory_resource;
    EXPECT_GE(fail_every_allocation([](Memory& memory) { duration_text(kS, memory); }), 1U);
    EXPECT_GE(fail_every_allocation([](Memory& memory) { keep_text("abc", memory); }), 1U);
    EXPECT_GE(fail_every_allocation([](Memory& memory) { victim_detail(termination(), memory); }),
              2U);
    EXPECT_GE(fail_every_allocation([](Memory& memory) { eviction_detail(eviction(), memory); }),
              2U);
    EXPECT_GE(fail_every_allocation([](Memory& memory) {
                  next_step_text(NextStep::await_holders, kS, false, memory);
              }),
              2U);
    EXPECT_GE(
        fail_every_allocation([](Memory& memory) { termination_log_line(termination(), memory); }),
        2U);
}

} // namespace
} // namespace lockguard::core
