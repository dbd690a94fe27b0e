#include "core/blocker_policy.h"

#include <gtest/gtest.h>

namespace lockguard::core {
namespace {

TEST(MatchesApplicationTest, Patterns) {
    EXPECT_TRUE(matches_application("psql", "psql"));
    EXPECT_FALSE(matches_application("psql", "Psql"));
    EXPECT_FALSE(matches_application("psql", "psql "));
    EXPECT_FALSE(matches_application("psql", ""));
    EXPECT_TRUE(matches_application("pg_*", "pg_dump"));
    EXPECT_TRUE(matches_application("pg_*", "pg_"));
    EXPECT_FALSE(matches_application("pg_*", "pg"));
    EXPECT_TRUE(matches_application("*dump", "pg_dump"));
    EXPECT_TRUE(matches_application("*a*b*", "xxaxxbxx"));
    EXPECT_FALSE(matches_application("*a*b*", "xxbxxaxx"));
    EXPECT_TRUE(matches_application("a*ab", "aaab"));
    EXPECT_TRUE(matches_application("**", ""));
    EXPECT_TRUE(matches_application("*", "anything"));
    EXPECT_FALSE(matches_application("_", "a")) << "no wildcard but *";
    EXPECT_FALSE(matches_application("a%", "ab"));
}

TEST(MatchesApplicationTest, Lists) {
    EXPECT_FALSE(matches_application("", ""));
    EXPECT_FALSE(matches_application("  ", ""));
    EXPECT_TRUE(matches_application(" psql ,\tpg_dump ", "psql"));
    EXPECT_TRUE(matches_application(" psql ,\tpg_dump ", "pg_dump"));
    EXPECT_TRUE(matches_application("my app", "my app"));
    EXPECT_TRUE(matches_application(R"("a,b", c)", "a,b"));
    EXPECT_TRUE(matches_application(R"("a,b", c)", "c"));
    EXPECT_FALSE(matches_application(R"("a,b", c)", "a"));
    EXPECT_TRUE(matches_application(R"(" x ")", " x "));
    EXPECT_FALSE(matches_application(R"(" x ")", "x"));
    EXPECT_TRUE(matches_application(R"("*"*)", "*y"));
    EXPECT_FALSE(matches_application(R"("*"*)", "xy"));
    EXPECT_TRUE(matches_application(R"("say ""hi""")", R"(say "hi")"));
    EXPECT_TRUE(matches_application(R"("""")", R"(")"));
}

TEST(MatchesApplicationTest, Faults) {
    for (const char* right :
         {"", "  ", "a", "a,b", " a , b ", "*", R"("a,b")", R"("a b" , c*)", R"("""")"})
        EXPECT_EQ(fault_of_patterns(right), "") << right;
    for (const char* wrong : {",", "a,", ",a", "a,,b", "a, ,b", R"("")", R"("a)", R"(a,"b)"})
        EXPECT_NE(fault_of_patterns(wrong), "") << wrong;
}

} // namespace
} // namespace lockguard::core
