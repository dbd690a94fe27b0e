#include "core/words/waits.h"

#include "text_checks.h"

#include <gtest/gtest.h>

#include <array>
#include <new>
#include <string>
#include <string_view>

namespace lockguard::core {
namespace {

constexpr Microseconds kS = 1000 * kMillisecond;
constexpr Microseconds kMin = 60 * kS;

Culprit client(std::string_view state, std::string_view query) {
    Culprit culprit = {};
    culprit.pid = 4711;
    culprit.application = "sidekiq";
    culprit.role = "shop";
    culprit.visible = true;
    culprit.idle_in_transaction = state == "idle in transaction";
    culprit.state = state;
    culprit.state_age = 10 * kMin;
    culprit.query = query;
    return culprit;
}

/// Of a statement that waits behind these, without a limit.
WaitWords wait_behind(std::span<const Culprit> culprits) {
    WaitWords waiting = {};
    waiting.wait = {"ALTER TABLE", "AccessExclusiveLock", "public.users", 11 * kS, culprits};
    waiting.patience = -1;
    waiting.pid = 4712;
    return waiting;
}

std::string message(const WaitWords& waiting) {
    return checked([&](auto& memory) { return wait_notice_message(waiting, memory); });
}

std::string detail(const WaitWords& waiting) {
    return checked([&](auto& memory) { return wait_notice_detail(waiting, memory); });
}

std::string hint(const WaitWords& waiting) {
    return checked([&](auto& memory) { return wait_notice_hint(waiting, memory); });
}

TEST(WaitNoticeTest, SaysWhatIsWaitedForAndHowLong) {
    WaitWords waiting = wait_behind({});
    EXPECT_EQ(message(waiting),
              "ALTER TABLE has waited 11 s for AccessExclusiveLock on public.users");
    waiting.wait.lock_mode = waiting.wait.object = {};
    EXPECT_EQ(message(waiting), "ALTER TABLE has waited 11 s for a lock");
    waiting.wait.command = {};
    EXPECT_EQ(message(waiting), "The statement has waited 11 s for a lock");
}

TEST(WaitNoticeTest, SaysWhoIsInTheWay) {
    const std::array culprits = {client("idle in transaction", "SELECT 1;")};
    EXPECT_EQ(detail(wait_behind(culprits)),
              "Nobody waits behind it, and it waits for as long as it takes. Blocked by PID 4711 "
              "(app \"sidekiq\", user shop, idle in transaction for 10 min): SELECT 1");
    EXPECT_EQ(detail(wait_behind({})),
              "Nobody waits behind it, and it waits for as long as it takes. Nobody was found who "
              "holds a conflicting lock.");
}

TEST(WaitNoticeTest, SaysWhoWaitsBehindIt) {
    WaitWords waiting = wait_behind({});
    waiting.wait.kept_waiting = 1;
    waiting.wait.kept_waiting_for = 300 * kMillisecond;
    EXPECT_EQ(detail(waiting).substr(0, 75),
              "1 session waits for locks of its transaction, for up to 300 ms so far, and ");
    waiting.wait.kept_waiting = 3;
    EXPECT_EQ(detail(waiting).substr(0, 40), "3 sessions wait for locks of its transac");
}

TEST(WaitNoticeTest, SaysWhatComesWhenPatienceEnds) {
    WaitWords waiting = wait_behind({});
    waiting.patience = 50 * kS;
    const auto says = [&](PatienceEnd end, std::string_view words) {
        waiting.end = end;
        return detail(waiting).find(words) != std::string::npos;
    };
    EXPECT_TRUE(says(PatienceEnd::failure, "behind it, and in 50 s it gives up. "));
    EXPECT_TRUE(says(PatienceEnd::queue,
                     "and in 50 s it stands in the lock queue, where others wait behind it. "));
    EXPECT_TRUE(
        says(PatienceEnd::termination, "and in 50 s it ends the sessions that hold the lock. "));
    EXPECT_TRUE(says(PatienceEnd::statement_timeout, "and in 50 s statement_timeout cancels it. "));
    EXPECT_TRUE(says(PatienceEnd::transaction_timeout,
                     "and in 50 s transaction_timeout ends its session. "));
    waiting.patience = 0;
    EXPECT_TRUE(says(PatienceEnd::failure, "and in 0 ms it gives up. "));
}

TEST(WaitNoticeTest, AdvisesByTheFirstCulprit) {
    const auto advice_for = [](const Culprit& culprit) {
        const std::array culprits = {culprit, client("active", "SELECT 2")};
        return hint(wait_behind(culprits));
    };
    EXPECT_EQ(advice_for(client("idle in transaction", "")),
              "Commit or roll back the transaction of PID 4711, or end its session with SELECT "
              "pg_terminate_backend(4711).");
    EXPECT_EQ(advice_for(client("active", "")),
              "It goes on when PID 4711 has finished; SELECT pg_cancel_backend(4711) cancels the "
              "statement in its way.");
    EXPECT_EQ(advice_for(client("idle", "")),
              "If PID 4711 still blocks it while idle, it keeps a session-level lock, which SELECT "
              "pg_terminate_backend(4711) releases.");
    Culprit hidden = client("active", "secret");
    hidden.visible = false;
    EXPECT_EQ(advice_for(hidden), "Members of pg_read_all_stats can see what PID 4711 does.");
    Culprit autovacuum = client("active", "");
    autovacuum.process = "autovacuum worker";
    EXPECT_EQ(advice_for(autovacuum),
              "An autovacuum worker gives way by itself, unless it works against wraparound.");
    autovacuum.against_wraparound = true;
    EXPECT_NE(advice_for(autovacuum).find("does not give way"), std::string::npos);
    Culprit walsender = client("active", "");
    walsender.process = "walsender";
    EXPECT_EQ(advice_for(walsender), "SELECT * FROM lock_tree() shows who blocks whom.");
    Culprit prepared = {};
    prepared.gid = "it's";
    prepared.visible = true;
    EXPECT_EQ(advice_for(prepared), "Run COMMIT PREPARED 'it''s' or ROLLBACK PREPARED 'it''s'.");
    EXPECT_EQ(hint(wait_behind({})), "SELECT * FROM lock_tree() shows who blocks whom.");
}

TEST(WaitNoticeTest, SaysThatOthersCanDecide) {
    WaitWords waiting = wait_behind({});
    waiting.is_decidable = true;
    EXPECT_EQ(hint(waiting), "SELECT * FROM lock_tree() shows who blocks whom. Others can decide "
                             "for it: SELECT pg_lockguard_decide(4712, 'give up'), or 'queue', or "
                             "'terminate'.");
}

TEST(WaitNoticeTest, SaysThatItQueues) {
    const WaitWords waiting = wait_behind({});
    EXPECT_EQ(checked([&](auto& memory) { return queue_notice_message(waiting, memory); }),
              "ALTER TABLE stands in the queue from now on, after 11 s, for AccessExclusiveLock on "
              "public.users; others wait behind it");
}

TEST(WaitNoticeTest, StaysOnOneLine) {
    Culprit culprit = client("active", "SELECT\n1");
    culprit.application = "two\nlines";
    const std::array culprits = {culprit};
    WaitWords waiting = wait_behind(culprits);
    waiting.wait.object = "public.a\nb";
    EXPECT_EQ(message(waiting).find('\n'), std::string::npos);
    EXPECT_EQ(detail(waiting).find('\n'), std::string::npos);
}

TEST(WaitNoticeTest, FailsForWantOfMemory) {
    const std::array culprits = {client("idle in transaction", "SELECT 1")};
    const WaitWords waiting = wait_behind(culprits);
    for (std::size_t successes = 0; successes < 2; ++successes) {
        TestMemory memory(successes);
        EXPECT_THROW(wait_notice_detail(waiting, memory), std::bad_alloc);
        EXPECT_EQ(memory.live_blocks(), 0U);
    }
}

TEST(DecisionTextTest, SaysWhoHasDecidedWhat) {
    const auto text = [](const Decider& decider) {
        return checked([&](auto& memory) { return decision_text(decider, memory); });
    };
    EXPECT_EQ(text({5000, "admin", "psql", "give up"}),
              "PID 5000 (app \"psql\", user admin) decided: give up");
    EXPECT_EQ(text({5000, "admin", "", "queue"}), "PID 5000 (user admin) decided: queue");
    EXPECT_EQ(text({5000, "", "ps\nql", "queue"}), "PID 5000 (app \"ps?ql\") decided: queue");
    EXPECT_EQ(text({5000, "", "", "terminate"}), "PID 5000 decided: terminate");
}

} // namespace
} // namespace lockguard::core
