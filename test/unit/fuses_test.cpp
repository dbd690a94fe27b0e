#include "core/fuses.h"

#include <gtest/gtest.h>

namespace lockguard::core {
namespace {

constexpr Microseconds kMinute = 60'000'000;

TEST(TerminationFuseTest, CountsAnyMinute) {
    TerminationFuse fuse = {};
    const Microseconds start = 5; // a machine that has just been started
    EXPECT_FALSE(fuse_allows(fuse, 0, start));
    for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(fuse_allows(fuse, 3, start + i));
        note_termination(fuse, start + i);
    }
    EXPECT_FALSE(fuse_allows(fuse, 3, start + 3));
    EXPECT_TRUE(fuse_allows(fuse, 4, start + 3));
    // The first one is a minute old to the microsecond.
    EXPECT_FALSE(fuse_allows(fuse, 3, start + kMinute - 1));
    EXPECT_TRUE(fuse_allows(fuse, 3, start + kMinute));
    note_termination(fuse, start + kMinute);
    EXPECT_FALSE(fuse_allows(fuse, 3, start + kMinute));
    EXPECT_TRUE(fuse_allows(fuse, 3, start + kMinute + 1));
}

TEST(TerminationFuseTest, HoldsInDoubt) {
    TerminationFuse fuse = {};
    note_termination(fuse, 10 * kMinute);
    EXPECT_FALSE(fuse_allows(fuse, 1, kMinute)) << "a clock that went backwards";
}

TEST(TerminationFuseTest, TheRingKeepsTheNewest) {
    TerminationFuse fuse = {};
    for (Microseconds i = 0; i < 3 * kMostTerminationsPerMinute + 7; ++i)
        note_termination(fuse, i);
    EXPECT_EQ(fuse.count, kMostTerminationsPerMinute);
    const Microseconds now = 3 * kMostTerminationsPerMinute + 6;
    EXPECT_FALSE(fuse_allows(fuse, kMostTerminationsPerMinute, now));
    // Half of those kept are a minute old.
    const Microseconds later = now - kMostTerminationsPerMinute / 2 + kMinute;
    EXPECT_FALSE(fuse_allows(fuse, kMostTerminationsPerMinute / 2, later));
    EXPECT_TRUE(fuse_allows(fuse, kMostTerminationsPerMinute / 2 + 1, later));
}

TEST(RequestFuseTest, HoldsForTheSameRequestAlone) {
    const RequestFuse unused = {};
    EXPECT_FALSE(request_fuse_holds(unused, 4712, 77, 50, 10));
    EXPECT_FALSE(request_fuse_holds(unused, 0, 0, 50, 10));
    const RequestFuse fuse = {4712, 77, 1000};
    EXPECT_TRUE(request_fuse_holds(fuse, 4712, 77, 50, 1000));
    EXPECT_TRUE(request_fuse_holds(fuse, 4712, 77, 50, 1049));
    EXPECT_FALSE(request_fuse_holds(fuse, 4712, 77, 50, 1050));
    EXPECT_FALSE(request_fuse_holds(fuse, 4712, 78, 50, 1000)) << "its next wait";
    EXPECT_FALSE(request_fuse_holds(fuse, 4713, 77, 50, 1000));
    EXPECT_FALSE(request_fuse_holds(fuse, 4712, 77, 0, 1000)) << "no limit";
    EXPECT_TRUE(request_fuse_holds(fuse, 4712, 77, 50, 900)) << "in doubt";
}

} // namespace
} // namespace lockguard::core
