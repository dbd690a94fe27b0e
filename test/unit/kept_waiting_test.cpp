#include "core/kept_waiting.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockguard::core {
namespace {

class KeptWaitingTest : public testing::Test {
  protected:
    KeptWaitingTest() { start_record(record_, 1000); }

    /// What the look leaves of it, for who was kept waiting by the lock table alone since `since`.
    Timestamp look(Timestamp at, KeptWaiting wait) {
        note_look(record_, {&wait, 1}, at);
        return wait.since;
    }

    KeptWaitingRecord record_;
};

TEST_F(KeptWaitingTest, NotBeforeTheTransactionBegan) {
    EXPECT_EQ(look(2000, {1, 11, 100, 100}), 1000);
}

TEST_F(KeptWaitingTest, NotBeforeTheChainWasComplete) {
    EXPECT_EQ(look(2000, {1, 11, 100, 1700}), 1700);
}

TEST_F(KeptWaitingTest, NotBeforeALookThatSawNobody) {
    note_look(record_, {}, 2000);
    EXPECT_EQ(look(3000, {1, 11, 100, 100}), 2000);
    // And from then on since then.
    EXPECT_EQ(look(4000, {1, 11, 100, 100}), 2000);
}

TEST_F(KeptWaitingTest, ThroughOthersThanBefore) {
    EXPECT_EQ(look(2000, {1, 11, 100, 1500}), 1500);
    EXPECT_EQ(look(3000, {1, 11, 100, 2500}), 1500);
}

TEST_F(KeptWaitingTest, AnotherWaitBeginsAnew) {
    look(2000, {1, 11, 1500, 1500});
    EXPECT_EQ(look(3000, {1, 11, 2600, 2600}), 2600);
    EXPECT_EQ(look(4000, {1, 12, 2600, 2600}), 3000); // another process in the same place
}

TEST_F(KeptWaitingTest, AwayForALook) {
    look(2000, {1, 11, 100, 1500});
    note_look(record_, {}, 3000);
    EXPECT_EQ(look(4000, {1, 11, 100, 1500}), 3000);
}

TEST_F(KeptWaitingTest, EachByItself) {
    std::vector<KeptWaiting> waits = {{3, 31, 1100, 1100}, {1, 11, 1200, 1200}};
    note_look(record_, waits, 2000);
    waits = {{2, 21, 900, 900}, {3, 31, 1100, 1100}, {1, 11, 1200, 1200}};
    note_look(record_, waits, 3000);
    for (const KeptWaiting& wait : waits)
        EXPECT_EQ(wait.since, wait.procno == 3 ? 1100 : wait.procno == 1 ? 1200 : 2000);
}

TEST_F(KeptWaitingTest, OfMoreThanThereIsRoomForThoseThatWaitLongest) {
    std::vector<KeptWaiting> waits;
    for (std::int32_t i = 0; i < 1000; ++i)
        waits.push_back({1000 - i, 5000 + i, 2000 + i, 2000 + i});
    const std::vector<KeptWaiting> all = waits;
    note_look(record_, waits, 9000);
    EXPECT_EQ(record_.count, KeptWaitingRecord::kRoom);

    waits = all;
    note_look(record_, waits, 9500);
    for (const KeptWaiting& wait : waits) {
        const bool remembered = wait.wait_start < 2000 + 200;
        EXPECT_EQ(wait.since, remembered ? wait.wait_start : 9000);
    }
}

TEST(LookPeriodTest, IsAPartOfTheLimitWithinBounds) {
    EXPECT_EQ(look_period(200 * kMillisecond), 50 * kMillisecond);
    EXPECT_EQ(look_period(kMillisecond), kShortestLookPeriod);
    EXPECT_EQ(look_period(INT64_MAX), kLongestLookPeriod);
}

} // namespace
} // namespace lockguard::core
