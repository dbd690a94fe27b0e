#include "core/name_pattern.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockguard::core {
namespace {

/// Reads the list, in just as much room as it may take, and matches.
bool matches(std::string_view list, std::string_view name) {
    std::vector<PatternUnit> units(list.size() + 2, 0xffff);
    const std::size_t count = parse_patterns(list, {units.data(), list.size() + 1});
    EXPECT_LE(count, list.size() + 1) << list;
    EXPECT_EQ(units.back(), 0xffff) << list;
    return matches_any({units.data(), count}, name);
}

TEST(NamePatternTest, Patterns) {
    EXPECT_TRUE(matches("psql", "psql"));
    EXPECT_FALSE(matches("psql", "Psql"));
    EXPECT_FALSE(matches("psql", "psql "));
    EXPECT_FALSE(matches("psql", ""));
    EXPECT_TRUE(matches("pg_*", "pg_dump"));
    EXPECT_TRUE(matches("pg_*", "pg_"));
    EXPECT_FALSE(matches("pg_*", "pg"));
    EXPECT_TRUE(matches("*dump", "pg_dump"));
    EXPECT_TRUE(matches("*a*b*", "xxaxxbxx"));
    EXPECT_FALSE(matches("*a*b*", "xxbxxaxx"));
    EXPECT_TRUE(matches("a*ab", "aaab"));
    EXPECT_TRUE(matches("**", ""));
    EXPECT_TRUE(matches("*", "anything"));
    EXPECT_FALSE(matches("_", "a")) << "no wildcard but *";
    EXPECT_FALSE(matches("a%", "ab"));
}

TEST(NamePatternTest, Lists) {
    EXPECT_FALSE(matches("", ""));
    EXPECT_FALSE(matches("  ", ""));
    EXPECT_TRUE(matches(" psql ,\tpg_dump ", "psql"));
    EXPECT_TRUE(matches(" psql ,\tpg_dump ", "pg_dump"));
    EXPECT_TRUE(matches("my app", "my app"));
    EXPECT_TRUE(matches(R"("a,b", c)", "a,b"));
    EXPECT_TRUE(matches(R"("a,b", c)", "c"));
    EXPECT_FALSE(matches(R"("a,b", c)", "a"));
    EXPECT_TRUE(matches(R"(" x ")", " x "));
    EXPECT_FALSE(matches(R"(" x ")", "x"));
    EXPECT_TRUE(matches(R"("*"*)", "*y"));
    EXPECT_FALSE(matches(R"("*"*)", "xy"));
    EXPECT_TRUE(matches(R"("say ""hi""")", R"(say "hi")"));
    EXPECT_TRUE(matches(R"("""")", R"(")"));
}

TEST(NamePatternTest, Faults) {
    for (const char* right :
         {"", "  ", "a", "a,b", " a , b ", "*", R"("a,b")", R"("a b" , c*)", R"("""")"})
        EXPECT_EQ(fault_of_patterns(right), "") << right;
    for (const char* wrong : {",", "a,", ",a", "a,,b", "a, ,b", R"("")", R"("a)", R"(a,"b)"})
        EXPECT_NE(fault_of_patterns(wrong), "") << wrong;
}

} // namespace
} // namespace lockguard::core
