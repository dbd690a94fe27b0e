#include "core/heavy_work.h"

#include "test_memory.h"

#include <gtest/gtest.h>

#include <string>

namespace lockguard::core {
namespace {

TEST(HeavyMessageTest, KnowsWhatTheServerSays) {
    EXPECT_EQ(heavy_message("rewriting table \"%s\"").kind, HeavyKind::rewrite);
    EXPECT_EQ(heavy_message("verifying table \"%s\"").kind, HeavyKind::scan);
    EXPECT_EQ(heavy_message("building index \"%s\" on table \"%s\" serially").kind,
              HeavyKind::build_index);
    EXPECT_EQ(heavy_message("building index \"%s\" on table \"%s\" with request for %d parallel "
                            "workers")
                  .kind,
              HeavyKind::build_index);
    EXPECT_EQ(heavy_message("validating foreign key constraint \"%s\"").kind,
              HeavyKind::validate_foreign_key);
    for (const char* id : {"clustering \"%s.%s\" using index scan on \"%s\"",
                           "clustering \"%s.%s\" using sequential scan and sort",
                           "vacuuming \"%s.%s\"", "repacking \"%s.%s\" in physical order"}) {
        EXPECT_EQ(heavy_message(id).kind, HeavyKind::rewrite) << id;
        EXPECT_EQ(heavy_message(id).subject, HeavySubject::schema_table) << id;
    }
}

TEST(HeavyMessageTest, PassesOverOthers) {
    for (const char* id : {"", "rewriting table", "rewriting table \"%s\" ",
                           "relation \"%s\" already exists, skipping"})
        EXPECT_EQ(heavy_message(id).kind, HeavyKind::none) << id;
}

TEST(NamesSubjectTest, FindsTheTable) {
    EXPECT_TRUE(names_subject(HeavySubject::table, "rewriting table \"users\"", "users", {}));
    EXPECT_TRUE(names_subject(HeavySubject::table, "verifying table \"us\"ers\"", "us\"ers", {}));
    for (const char* other : {"user", "userss", "sers", "", "users\""})
        EXPECT_FALSE(names_subject(HeavySubject::table, "rewriting table \"users\"", other, {}))
            << other;
}

TEST(NamesSubjectTest, FindsTheIndexOfItsTable) {
    const char* message = "building index \"a\" on table \"b\" serially";
    EXPECT_TRUE(names_subject(HeavySubject::index_and_table, message, "a", "b"));
    EXPECT_FALSE(names_subject(HeavySubject::index_and_table, message, "a", "c"));
    EXPECT_FALSE(names_subject(HeavySubject::index_and_table, message, "b", "a"));
    EXPECT_FALSE(names_subject(HeavySubject::index_and_table, message, "", ""));
    EXPECT_TRUE(names_subject(HeavySubject::index_and_table,
                              "building index \"a\" on table \"b\" on table \"c\" serially",
                              "a\" on table \"b", "c"));
}

TEST(NamesSubjectTest, FindsTheTableInAnyLanguage) {
    EXPECT_TRUE(names_subject(HeavySubject::schema_table,
                              "clustere »public.users« durch sequenziellen Scan", "users",
                              "public"));
    EXPECT_TRUE(names_subject(HeavySubject::schema_table, "vacuuming \"s.s.t\"", "s.t", "s"));
    EXPECT_FALSE(names_subject(HeavySubject::schema_table, "vacuuming \"public.users\"", "orders",
                               "public"));
    EXPECT_FALSE(names_subject(HeavySubject::schema_table, "", "", ""));
}

TEST(NamedConstraintTest, IsWhatStandsBetweenTheQuotes) {
    EXPECT_EQ(named_constraint("validating foreign key constraint \"fk\""), "fk");
    EXPECT_EQ(named_constraint("validating foreign key constraint \"f\"k\""), "f\"k");
    EXPECT_EQ(named_constraint("validating foreign key constraint \""), "");
    EXPECT_EQ(named_constraint("rewriting table \"fk\""), "");
}

std::string size_of(std::int64_t bytes) {
    TestMemory memory;
    return std::string(size_text(bytes, memory));
}

TEST(SizeTextTest, HasTwoFiguresAtMostBelowTen) {
    EXPECT_EQ(size_of(0), "0 bytes");
    EXPECT_EQ(size_of(1023), "1023 bytes");
    EXPECT_EQ(size_of(1024), "1 kB");
    EXPECT_EQ(size_of(8192), "8 kB");
    EXPECT_EQ(size_of(1536), "1.5 kB");
    EXPECT_EQ(size_of(10 * 1024 * 1024 + 512 * 1024), "10 MB");
    EXPECT_EQ(size_of(std::int64_t{1} << 30), "1 GB");
    EXPECT_EQ(size_of((std::int64_t{1} << 50) * 3), "3072 TB");
}

TEST(StoppedTest, FollowsTheModes) {
    EXPECT_EQ(stopped_by(0), Stopped::nobody);
    EXPECT_EQ(stopped_by(1), Stopped::ddl);
    EXPECT_EQ(stopped_by(4), Stopped::ddl);
    EXPECT_EQ(stopped_by(5), Stopped::writers);
    EXPECT_EQ(stopped_by(7), Stopped::writers);
    EXPECT_EQ(stopped_by(8), Stopped::everybody);
    EXPECT_EQ(stopped_text(Stopped::nobody), nullptr);
    EXPECT_STREQ(stopped_text(Stopped::everybody), "readers and writers");
}

TEST(ConfirmsTest, ReadsAList) {
    EXPECT_TRUE(confirms("public.orders", "public.orders"));
    EXPECT_TRUE(confirms(" public.users , public.orders\t", "public.orders"));
    EXPECT_TRUE(confirms("a.b,public.\"odd, \"\"name\",c.d", "public.\"odd, \"\"name\""));
    EXPECT_TRUE(confirms("a.b,public.\"odd, \"\"name\",c.d", "c.d"));
    for (const char* list : {"", " ", ",", "orders", "public.orders2", "public.\"orders"})
        EXPECT_FALSE(confirms(list, "public.orders")) << list;
    EXPECT_FALSE(confirms(" , ", ""));
}

TEST(HeavyStatementTest, IsToldInOneVoice) {
    TestMemory memory;
    const HeavyStatement statement = {.command = "ALTER TABLE",
                                      .kind = HeavyKind::rewrite,
                                      .relation = "public.\"o'rders\"",
                                      .size = std::int64_t{12} << 30,
                                      .locked = "public.\"o'rders\"",
                                      .lock_mode = "AccessExclusiveLock",
                                      .stopped = Stopped::everybody,
                                      .min_size = std::int64_t{1} << 30,
                                      .advice = "Do it otherwise."};
    EXPECT_EQ(heavy_message_text(statement, memory),
              "ALTER TABLE would rewrite public.\"o'rders\" while it stops readers and writers");
    EXPECT_EQ(heavy_detail_text(statement, memory),
              "public.\"o'rders\" has 12 GB, more than pg_lockguard.ddl_heavy_min_size (1 GB). "
              "AccessExclusiveLock on public.\"o'rders\" would be held all that time.");
    EXPECT_EQ(heavy_hint_text(statement, memory),
              "Do it otherwise.\nIf that is meant, say so in the same transaction: SET LOCAL "
              "pg_lockguard.ddl_heavy_confirm = 'public.\"o''rders\"';");
    EXPECT_EQ(work_text(HeavyKind::rewrite, "public.orders", memory), "rewriting public.orders");
    EXPECT_EQ(work_text(HeavyKind::build_index, "public.orders", memory),
              "building an index on public.orders");
}

} // namespace
} // namespace lockguard::core
