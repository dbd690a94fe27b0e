#include "core/words/stalls.h"

#include "text_checks.h"

#include <gtest/gtest.h>

#include <memory_resource>
#include <new>
#include <string>

namespace lockguard::core {
namespace {

constexpr Microseconds kS = 1'000'000;

Stall rewrite() {
    Stall stall{};
    stall.kind = StallKind::guarded;
    stall.command = "ALTER TABLE";
    stall.sessions = 37;
    stall.longest = 5'040'000;
    stall.lock_mode = "AccessShareLock";
    stall.object = "public.users";
    stall.limit = 5 * kS;
    return stall;
}

std::string detail(const Stall& stall) {
    return checked([&](auto& memory) { return stall_detail(stall, memory); });
}

std::string hint(const Stall& stall) {
    return checked([&](auto& memory) { return stall_hint(stall, memory); });
}

std::string victim(const Stall& stall) {
    return checked([&](auto& memory) { return stall_victim_detail(stall, memory); });
}

TEST(StallText, OfAStatementThatRuns) {
    EXPECT_EQ(detail(rewrite()),
              "ALTER TABLE kept 37 sessions waiting, for up to 5.0 s, for AccessShareLock on "
              "public.users; the limit (pg_lockguard.ddl_max_stall) is 5.0 s.");
    EXPECT_NE(hint(rewrite()).find("NOT VALID"), std::string::npos);
    EXPECT_NE(hint(rewrite()).find("keep others waiting again"), std::string::npos);
}

TEST(StallText, OfWhatTheTransactionDoesLater) {
    Stall stall = rewrite();
    stall.kind = StallKind::later;
    stall.sessions = 1;
    EXPECT_EQ(detail(stall),
              "Its transaction, which has run ALTER TABLE, kept 1 session waiting, for 5.0 s, for "
              "AccessShareLock on public.users; the limit (pg_lockguard.ddl_max_stall) is 5.0 s.");
    EXPECT_EQ(hint(stall),
              "Commit right after ALTER TABLE, and do the rest in transactions of its own.");
}

TEST(StallText, ToldToTheClientOfASessionThatIsEnded) {
    Stall stall = rewrite();
    stall.kind = StallKind::idle;
    EXPECT_EQ(victim(stall),
              "pg_lockguard: its transaction, which was idle and has run ALTER TABLE, kept 37 "
              "sessions waiting, for up to 5.0 s, for AccessShareLock on public.users.");
    stall.kind = StallKind::stalled;
    EXPECT_NE(victim(stall).find("its transaction, which waited for its client in a statement and "
                                 "has run ALTER TABLE, kept"),
              std::string::npos);
    stall.kind = StallKind::prepared;
    EXPECT_NE(detail(stall).find("which was prepared and has run ALTER TABLE"), std::string::npos);
}

TEST(StallText, AdvisesTheFormThatKeepsNobodyWaiting) {
    Stall stall = rewrite();
    for (const char* command : {"CREATE INDEX", "REINDEX", "REFRESH MATERIALIZED VIEW"}) {
        stall.command = command;
        EXPECT_NE(hint(stall).find(std::string("use ") + command + " CONCURRENTLY"),
                  std::string::npos)
            << command;
    }
    stall.command = "TRUNCATE TABLE";
    EXPECT_NE(hint(stall).find("smaller steps"), std::string::npos);
}

TEST(StallText, WhereLittleIsKnown) {
    Stall stall{};
    stall.sessions = 2;
    EXPECT_EQ(detail(stall),
              "The statement kept 2 sessions waiting, for up to 0 ms, for a lock; the limit "
              "(pg_lockguard.ddl_max_stall) is 0 ms.");
    stall.kind = StallKind::later;
    EXPECT_NE(detail(stall).find("which has run a guarded statement,"), std::string::npos);
    EXPECT_NE(hint(stall).find("Commit right after the guarded statement"), std::string::npos);
}

TEST(StallText, StaysOnOneLine) {
    Stall stall = rewrite();
    stall.object = "public.users\nFATAL:  forged";
    EXPECT_EQ(detail(stall).find('\n'), std::string::npos);
    EXPECT_EQ(victim(stall).find('\n'), std::string::npos);
}

TEST(StallText, ThrowsNothingButBadAlloc) {
    EXPECT_THROW(stall_detail(rewrite(), *std::pmr::null_memory_resource()), std::bad_alloc);
}

} // namespace
} // namespace lockguard::core
