#include "core/words/failed_waits.h"

#include "text_checks.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockguard::core {
namespace {

constexpr Microseconds kMs = 1000;
constexpr Microseconds kS = 1000 * kMs;
constexpr Microseconds kMin = 60 * kS;

Culprit sidekiq() {
    return {.pid = 4711,
            .gid = {},
            .application = "sidekiq",
            .role = "shop",
            .process = {},
            .visible = true,
            .idle_in_transaction = true,
            .against_wraparound = false,
            .state = "idle in transaction",
            .state_age = 10 * kMin,
            .query = "SELECT ..."};
}

Culprit prepared() {
    return {.pid = 0,
            .gid = "batch 7",
            .application = {},
            .role = "shop",
            .process = {},
            .visible = true,
            .idle_in_transaction = false,
            .against_wraparound = false,
            .state = "prepared",
            .state_age = 10 * kMin,
            .query = {}};
}

Culprit autovacuum() {
    return {.pid = 4711,
            .gid = {},
            .application = {},
            .role = {},
            .process = "autovacuum worker",
            .visible = true,
            .idle_in_transaction = false,
            .against_wraparound = false,
            .state = "active",
            .state_age = 3 * kMin,
            .query = "autovacuum: VACUUM public.users"};
}

FailedWaitWords wait_for(std::span<const Culprit> culprits) {
    return {"ALTER TABLE", "AccessExclusiveLock", "public.users", 2 * kS, culprits};
}

const std::string kWaited = "ALTER TABLE waited 2.0 s for AccessExclusiveLock on public.users. ";

/// The DETAIL for these culprits, without the first sentence.
std::string blocked_by(const std::vector<Culprit>& culprits) {
    const std::string detail =
        checked([&](auto& memory) { return failed_wait_detail(wait_for(culprits), memory); });
    EXPECT_EQ(detail.substr(0, kWaited.size()), kWaited);
    return detail.substr(std::min(kWaited.size(), detail.size()));
}

std::string hint_for(const std::vector<Culprit>& culprits) {
    return checked([&](auto& memory) { return failed_wait_hint(wait_for(culprits), memory); });
}

/// The culprit with the change that `change` makes.
template <class Change>
Culprit but(Culprit culprit, Change change) {
    change(culprit);
    return culprit;
}

TEST(FailedWaitDetailTest, TheExampleOfTheDesign) {
    const std::vector<Culprit> culprits{sidekiq()};
    EXPECT_EQ(checked([&](auto& memory) { return failed_wait_detail(wait_for(culprits), memory); }),
              "ALTER TABLE waited 2.0 s for AccessExclusiveLock on public.users. Blocked by PID "
              "4711 (app \"sidekiq\", user shop, idle in transaction for 10 min): SELECT ...");
}

TEST(FailedWaitDetailTest, TheStatementThatTouchedTheRelationFirst) {
    const Culprit known = but(sidekiq(), [](Culprit& culprit) {
        culprit.first_statement = "UPDATE users\n  SET seen = now();";
        culprit.first_statement_age = 12 * 60 * kS;
    });
    EXPECT_EQ(
        blocked_by({known}),
        "Blocked by PID 4711 (app \"sidekiq\", user shop, idle in transaction for 10 min): "
        "SELECT ...; it touched the relation first 12 min ago: UPDATE users SET seen = now()");
    EXPECT_EQ(
        blocked_by({but(known,
                        [](Culprit& culprit) {
                            culprit.query = {};
                            culprit.first_statement_age = kNoAge;
                        })}),
        "Blocked by PID 4711 (app \"sidekiq\", user shop, idle in transaction for 10 min); it "
        "touched the relation first: UPDATE users SET seen = now()");
    EXPECT_EQ(blocked_by({but(known, [](Culprit& culprit) { culprit.visible = false; })}),
              "Blocked by PID 4711 (app \"sidekiq\", user shop).");
}

TEST(FailedWaitDetailTest, WithoutCulprits) {
    EXPECT_EQ(blocked_by({}),
              "It was queued behind other requests; nobody holds a conflicting lock any more.");
}

TEST(FailedWaitDetailTest, WhatIsNotKnownIsLeftOut) {
    const std::vector<Culprit> none;
    const auto detail = [&](FailedWaitWords wait) {
        wait.culprits = none;
        const std::string text =
            checked([&](auto& memory) { return failed_wait_detail(wait, memory); });
        return text.substr(0, text.find(". It was queued"));
    };
    EXPECT_EQ(detail({"", "ShareLock", "transaction 5", kS, {}}),
              "The statement waited 1.0 s for ShareLock on transaction 5");
    EXPECT_EQ(detail({"ALTER TABLE", "", "public.users", kS, {}}),
              "ALTER TABLE waited 1.0 s for a lock on public.users");
    EXPECT_EQ(detail({"ALTER TABLE", "ShareLock", "", kS, {}}),
              "ALTER TABLE waited 1.0 s for ShareLock");
    EXPECT_EQ(detail({"", "", "", -5, {}}), "The statement waited 0 ms for a lock");
}

TEST(FailedWaitDetailTest, EveryCombinationOfDetails) {
    for (int bits = 0; bits < 32; ++bits) {
        Culprit culprit = sidekiq();
        std::string details;
        const auto expect = [&](const char* detail) {
            details += details.empty() ? "" : ", ";
            details += detail;
        };
        if ((bits & 1) != 0)
            expect("app \"sidekiq\"");
        else
            culprit.application = {};
        if ((bits & 2) != 0)
            expect("user shop");
        else
            culprit.role = {};
        culprit.visible = (bits & 16) != 0;
        if ((bits & 4) == 0)
            culprit.state = {};
        else if (culprit.visible)
            expect("idle in transaction for 10 min");
        if ((bits & 8) == 0)
            culprit.query = {};
        std::string expected = "Blocked by PID 4711";
        if (!details.empty())
            expected += " (" + details + ")";
        expected += culprit.visible && (bits & 8) != 0 ? ": SELECT ..." : ".";
        EXPECT_EQ(blocked_by({culprit}), expected) << "combination " << bits;
    }
}

TEST(FailedWaitDetailTest, States) {
    const auto state = [](std::string_view name, Microseconds age) {
        return blocked_by({but(sidekiq(), [&](Culprit& c) {
            c.application = c.role = c.query = {};
            c.state = name;
            c.state_age = age;
        })});
    };
    EXPECT_EQ(state("active", 3100 * kMs), "Blocked by PID 4711 (active for 3.1 s).");
    EXPECT_EQ(state("active", 0), "Blocked by PID 4711 (active for 0 ms).");
    EXPECT_EQ(state("active", -1), "Blocked by PID 4711 (active).");
    EXPECT_EQ(state("idle in transaction (aborted)", kMin),
              "Blocked by PID 4711 (idle in transaction (aborted) for 1 min).");
    EXPECT_EQ(state("disabled", kMin), "Blocked by PID 4711 (state not tracked).");
}

TEST(FailedWaitDetailTest, PreparedTransactions) {
    EXPECT_EQ(blocked_by({prepared()}),
              "Blocked by prepared transaction \"batch 7\" (user shop, prepared 10 min ago).");
    EXPECT_EQ(blocked_by({but(prepared(), [](Culprit& c) { c.state_age = -1; })}),
              "Blocked by prepared transaction \"batch 7\" (user shop, prepared).");
    EXPECT_EQ(blocked_by({but(prepared(), [](Culprit& c) { c.visible = false; })}),
              "Blocked by prepared transaction \"batch 7\" (user shop).");
    EXPECT_EQ(blocked_by({but(prepared(), [](Culprit& c) { c.gid = c.role = {}; })}),
              "Blocked by a prepared transaction (prepared 10 min ago).");
    EXPECT_EQ(blocked_by({but(prepared(), [](Culprit& c) { c.gid = "a\"b"; })}),
              "Blocked by prepared transaction \"a\"\"b\" (user shop, prepared 10 min ago).");
}

TEST(FailedWaitDetailTest, BackgroundProcesses) {
    EXPECT_EQ(blocked_by({autovacuum()}), "Blocked by autovacuum worker PID 4711 (active for 3 "
                                          "min): autovacuum: VACUUM public.users");
    EXPECT_EQ(blocked_by({but(autovacuum(), [](Culprit& c) { c.against_wraparound = true; })}),
              "Blocked by autovacuum worker PID 4711 (against wraparound, active for 3 min): "
              "autovacuum: VACUUM public.users");
    EXPECT_EQ(blocked_by({but(autovacuum(),
                              [](Culprit& c) {
                                  c.against_wraparound = true;
                                  c.visible = false;
                              })}),
              "Blocked by autovacuum worker PID 4711.");
}

TEST(FailedWaitDetailTest, SeveralCulprits) {
    const Culprit second =
        but(sidekiq(), [](Culprit& c) { c.pid = 4712, c.visible = false, c.application = {}; });
    const Culprit third = but(sidekiq(), [](Culprit& c) { c.pid = 4713; });
    const std::string first_text = "Blocked by PID 4711 (app \"sidekiq\", user shop, idle in "
                                   "transaction for 10 min): SELECT ...";
    const std::string second_text = "; also by PID 4712 (user shop)";
    const std::string third_text = "; also by PID 4713 (app \"sidekiq\", user shop, idle in "
                                   "transaction for 10 min): SELECT ...";
    EXPECT_EQ(blocked_by({sidekiq(), second}), first_text + second_text + ".");
    EXPECT_EQ(blocked_by({sidekiq(), second, third}), first_text + second_text + third_text);
    EXPECT_EQ(blocked_by({sidekiq(), second, third, sidekiq()}),
              first_text + second_text + third_text + ", and by 1 more.");
    EXPECT_EQ(blocked_by({sidekiq(), third, second, sidekiq(), sidekiq(), sidekiq()}),
              first_text + third_text + second_text + ", and by 3 more.");
}

TEST(FailedWaitDetailTest, NamesCannotForgeLinesNorEndTheirQuotes) {
    EXPECT_EQ(blocked_by({but(sidekiq(),
                              [](Culprit& c) {
                                  c.application = "a\"b\nFATAL:\x7f";
                                  c.role = "r\r\ts";
                                  c.query = {};
                                  c.state = {};
                              })}),
              "Blocked by PID 4711 (app \"a\"\"b?FATAL:?\", user r??s).");
    const FailedWaitWords wait{"ALTER TABLE", "ShareLock", "public.\"a\nb\"", kS, {}};
    EXPECT_EQ(checked([&](auto& memory) { return failed_wait_detail(wait, memory); }).substr(0, 58),
              "ALTER TABLE waited 1.0 s for ShareLock on public.\"a?b\". It");
}

/// How a query comes out in the DETAIL.
std::string shown_query(std::string_view query) {
    const std::string text = blocked_by({but(sidekiq(), [&](Culprit& c) {
        c.application = c.role = c.state = {};
        c.query = query;
    })});
    const std::string before = "Blocked by PID 4711: ";
    EXPECT_EQ(text.substr(0, before.size()), before);
    return text.substr(std::min(before.size(), text.size()));
}

TEST(QueryTextTest, WhiteSpaceIsFolded) {
    EXPECT_EQ(shown_query("  SELECT\n\t1,\r\n   2\v\f;  \n"), "SELECT 1, 2")
        << "and the end of the statement is not shown";
    EXPECT_EQ(shown_query("SELECT\x01"
                          "1\x7f"),
              "SELECT 1");
}

TEST(QueryTextTest, WhiteSpaceAloneIsNoQuery) {
    EXPECT_EQ(blocked_by({but(sidekiq(),
                              [](Culprit& c) {
                                  c.application = c.role = c.state = {};
                                  c.query = " \n\t ";
                              })}),
              "Blocked by PID 4711.");
}

std::string repeat(std::string_view text, std::size_t count) {
    std::string repeated;
    for (std::size_t i = 0; i < count; ++i)
        repeated += text;
    return repeated;
}

TEST(QueryTextTest, CutOnlyBeyondTheLimit) {
    for (std::size_t size = kQueryBytes - 2; size <= kQueryBytes; ++size)
        EXPECT_EQ(shown_query(repeat("x", size)), repeat("x", size));
    for (std::size_t size = kQueryBytes + 1; size <= kQueryBytes + 8; ++size)
        EXPECT_EQ(shown_query(repeat("x", size)), repeat("x", kQueryBytes) + "...");
    EXPECT_EQ(shown_query(repeat("x", 1'000'000)), repeat("x", kQueryBytes) + "...");
    // White space that is folded away does not count.
    EXPECT_EQ(shown_query(repeat("x", kQueryBytes) + repeat(" \n", 50)), repeat("x", kQueryBytes));
    EXPECT_EQ(shown_query(repeat(" ", 500) + repeat("x ", 50)), repeat("x ", 49) + "x");
}

TEST(QueryTextTest, NeverCutWithinAUtf8Character) {
    for (const std::string_view character : {"é", "€", "😀"}) {
        for (std::size_t ascii = kQueryBytes - 9; ascii <= kQueryBytes + 1; ++ascii) {
            const std::string query = repeat("x", ascii) + repeat(character, 30);
            std::string expected = repeat("x", std::min(ascii, kQueryBytes));
            while (expected.size() + character.size() <= kQueryBytes)
                expected += character;
            EXPECT_EQ(shown_query(query), expected + "...") << character << " after " << ascii;
        }
        // One that ends exactly at the limit, and then ASCII; or nothing.
        const std::string fits =
            repeat("x", kQueryBytes - character.size()) + std::string(character);
        EXPECT_EQ(shown_query(fits), fits);
        EXPECT_EQ(shown_query(fits + "y"), fits + "...");
    }
}

TEST(QueryTextTest, ARunThatIsNotUtf8IsLeftOutWhole) {
    // EUC_JP, two bytes a character, both of them high.
    const std::string euc = "SELECT '" + repeat("\xa4\xa2", 60);
    EXPECT_EQ(shown_query(euc), "SELECT '...");
    // After the run there is ASCII again: it is safe to cut there.
    const std::string short_run = "SELECT '" + repeat("\xa4\xa2", 20) + "'" + repeat("x", 80);
    EXPECT_EQ(shown_query(short_run), short_run.substr(0, kQueryBytes) + "...");
    // Nothing is left out of what is not cut.
    EXPECT_EQ(shown_query(euc.substr(0, 40)), euc.substr(0, 40));
    // A continuation byte too many at the limit, a sequence that never ends, bytes that are never
    // in UTF-8.
    const std::string xs = repeat("x", kQueryBytes - 3);
    EXPECT_EQ(shown_query(xs + "\xe2\x82\xac\x80 yyyy"), xs + "...");
    EXPECT_EQ(shown_query(xs + "\xf0\x9f\x98 yyyyy"), xs + "\xf0\x9f\x98...");
    EXPECT_EQ(shown_query(xs + "\xf0\x9f\x98\xf0yyyy"), xs + "...");
    EXPECT_EQ(shown_query(xs + "xx\xe2\x82"), xs + "xx...");
    EXPECT_EQ(shown_query(xs + "\xff\xff\xff\xff yyy"), xs + "...");
    EXPECT_EQ(shown_query(xs + "\xc1\x80\xc3\xa9 yyy"), xs + "...");
    EXPECT_EQ(shown_query(xs.substr(1) + "\xf5\x80\x80\x80\xc3\xa9"), xs.substr(1) + "...");
    // What stands before the run at the limit is left alone.
    EXPECT_EQ(shown_query(xs + "\xc1\x80x\xc3\xa9 yyy"), xs + "\xc1\x80x...");
    EXPECT_EQ(shown_query(repeat("\xff", 300)), "...");
}

TEST(FailedWaitHintTest, IdleInTransaction) {
    EXPECT_EQ(hint_for({sidekiq()}),
              "Commit or roll back the transaction of PID 4711, or end its session with SELECT "
              "pg_terminate_backend(4711), then run ALTER TABLE again.");
}

TEST(FailedWaitHintTest, Active) {
    for (const std::string_view state : {"active", "fastpath function call"}) {
        EXPECT_EQ(hint_for({but(sidekiq(),
                                [&](Culprit& c) {
                                    c.idle_in_transaction = false;
                                    c.state = state;
                                })}),
                  "Run ALTER TABLE again when PID 4711 has finished, or cancel its statement with "
                  "SELECT pg_cancel_backend(4711).");
    }
}

TEST(FailedWaitHintTest, IdleWithASessionLevelLock) {
    EXPECT_EQ(hint_for({but(sidekiq(),
                            [](Culprit& c) {
                                c.idle_in_transaction = false;
                                c.state = "idle";
                            })}),
              "Run ALTER TABLE again; if PID 4711 still blocks it while idle, it keeps a "
              "session-level lock, which SELECT pg_terminate_backend(4711) releases.");
}

TEST(FailedWaitHintTest, UnknownStateOrBackgroundProcess) {
    const std::string expected = "Run ALTER TABLE again when PID 4711 has finished; SELECT * FROM "
                                 "lock_tree() shows who blocks whom.";
    for (const std::string_view state : {"", "disabled"}) {
        EXPECT_EQ(hint_for({but(sidekiq(),
                                [&](Culprit& c) {
                                    c.idle_in_transaction = false;
                                    c.state = state;
                                })}),
                  expected);
    }
    for (const std::string_view state : {"active", "idle"}) {
        EXPECT_EQ(hint_for({but(sidekiq(),
                                [&](Culprit& c) {
                                    c.idle_in_transaction = false;
                                    c.process = "walsender";
                                    c.state = state;
                                })}),
                  expected);
    }
}

TEST(FailedWaitHintTest, Invisible) {
    EXPECT_EQ(hint_for({but(sidekiq(), [](Culprit& c) { c.visible = false; })}),
              "Run ALTER TABLE again when PID 4711 has finished; members of pg_read_all_stats can "
              "see what it does.");
}

TEST(FailedWaitHintTest, PreparedTransactions) {
    for (const bool visible : {false, true}) {
        EXPECT_EQ(hint_for({but(prepared(),
                                [&](Culprit& c) {
                                    c.visible = visible;
                                    c.gid = "it's 7";
                                })}),
                  "Run COMMIT PREPARED 'it''s 7' or ROLLBACK PREPARED 'it''s 7', then run ALTER "
                  "TABLE again.");
    }
    // A gid that can't be shown as it is would make a command that fails.
    for (const std::string_view gid : {"", "a\nb"}) {
        EXPECT_EQ(hint_for({but(prepared(), [&](Culprit& c) { c.gid = gid; })}),
                  "Find the prepared transaction in pg_prepared_xacts and run COMMIT PREPARED or "
                  "ROLLBACK PREPARED for it, then run ALTER TABLE again.");
    }
}

TEST(FailedWaitHintTest, Autovacuum) {
    EXPECT_EQ(hint_for({autovacuum()}),
              "An autovacuum worker gives way to a request that has waited for deadlock_timeout: "
              "run ALTER TABLE again with pg_lockguard.ddl_lock_timeout and lock_timeout above "
              "that.");
    EXPECT_EQ(hint_for({but(autovacuum(), [](Culprit& c) { c.against_wraparound = true; })}),
              "This autovacuum worker works against transaction ID wraparound and does not give "
              "way: run ALTER TABLE again when it has finished.");
    // Who may not see the worker is not told what it works on.
    for (const bool against_wraparound : {false, true}) {
        EXPECT_EQ(
            hint_for({but(autovacuum(),
                          [&](Culprit& c) {
                              c.visible = false;
                              c.against_wraparound = against_wraparound;
                          })}),
            "An autovacuum worker, unless it works against wraparound, gives way to a request "
            "that has waited for deadlock_timeout: run ALTER TABLE again with "
            "pg_lockguard.ddl_lock_timeout and lock_timeout above that.");
    }
}

TEST(FailedWaitHintTest, WithoutCulprits) {
    EXPECT_EQ(hint_for({}),
              "SELECT * FROM lock_tree() shows who blocks whom; run ALTER TABLE again "
              "when the requests ahead of it are done.");
}

TEST(FailedWaitHintTest, TheFirstCulpritDecides) {
    EXPECT_EQ(hint_for({prepared(), sidekiq()}), hint_for({prepared()}));
    EXPECT_EQ(hint_for({sidekiq(), prepared()}), hint_for({sidekiq()}));
    EXPECT_NE(hint_for({sidekiq()}), hint_for({prepared()}));
}

TEST(FailedWaitHintTest, WithoutACommand) {
    const std::vector<Culprit> culprits{sidekiq()};
    FailedWaitWords wait = wait_for(culprits);
    wait.command = {};
    EXPECT_EQ(checked([&](auto& memory) { return failed_wait_hint(wait, memory); }),
              "Commit or roll back the transaction of PID 4711, or end its session with SELECT "
              "pg_terminate_backend(4711), then run the statement again.");
}

TEST(FailedWaitTest, OfATransactionThatKeptOthersWaiting) {
    const std::vector<Culprit> culprits{prepared()};
    FailedWaitWords wait = wait_for(culprits);
    wait.kept_waiting = 1;
    wait.kept_waiting_for = 510 * kMs;
    const auto detail = [&] {
        return checked([&](auto& memory) { return failed_wait_detail(wait, memory); });
    };
    EXPECT_NE(detail().find(", while 1 session waited for locks of its transaction, for up to 510 "
                            "ms. Blocked by "),
              std::string::npos)
        << detail();
    wait.kept_waiting = 3;
    EXPECT_NE(detail().find(", while 3 sessions waited"), std::string::npos) << detail();
    EXPECT_EQ(checked([&](auto& memory) { return failed_wait_hint(wait, memory); }),
              "Roll back and retry the whole transaction, best with ALTER TABLE before any other "
              "statement that takes locks.");
}

TEST(FailedWaitTest, EveryFailureIsBadAllocAndLeavesNothing) {
    const std::vector<Culprit> culprits{sidekiq(), prepared(), autovacuum(), sidekiq()};
    const FailedWaitWords wait = wait_for(culprits);
    using Memory = std::pmr::memory_resource;
    EXPECT_GE(fail_every_allocation([&](Memory& memory) { failed_wait_detail(wait, memory); }), 5U);
    EXPECT_GE(fail_every_allocation([&](Memory& memory) { failed_wait_hint(wait, memory); }), 2U);
}

} // namespace
} // namespace lockguard::core
