#include "core/words/ddl_advice.h"

#include "test_memory.h"

#include <gtest/gtest.h>

#include <string>

namespace lockguard::core {
namespace {

std::string advice(DdlRemedy remedy, const RemedySubject& subject) {
    TestMemory memory;
    const std::string_view text = advice_text(remedy, subject, memory);
    EXPECT_EQ(text.data()[text.size()], '\0');
    return std::string(text);
}

constexpr RemedySubject kColumn = {"public.orders", "note"};

TEST(AdviceTest, HasWordsForEachRemedy) {
    EXPECT_EQ(advice(DdlRemedy::none, kColumn), "");
    for (int i = 1; i <= static_cast<int>(DdlRemedy::lock_only_parent); i++) {
        const std::string text = advice(static_cast<DdlRemedy>(i), kColumn);
        EXPECT_FALSE(text.empty()) << i;
        EXPECT_EQ(text.back(), '.') << text;
        EXPECT_EQ(text.find("  "), std::string::npos) << text;
    }
}

TEST(AdviceTest, NamesWhatItIsAbout) {
    EXPECT_EQ(advice(DdlRemedy::check_then_not_null, kColumn),
              "Add CHECK (note IS NOT NULL) to public.orders with NOT VALID, and in a transaction "
              "of its own ALTER TABLE ... VALIDATE CONSTRAINT, which stops neither readers nor "
              "writers. Then SET NOT NULL needs no scan, and the CHECK can be dropped.");
    EXPECT_EQ(advice(DdlRemedy::index_by_partition, kColumn),
              "CREATE INDEX ON ONLY public.orders, which locks only the parent; then CREATE INDEX "
              "CONCURRENTLY on each partition, and ALTER INDEX ... ATTACH PARTITION.");
}

TEST(AdviceTest, IsGeneralWhereNothingIsKnown) {
    EXPECT_EQ(advice(DdlRemedy::not_valid_check, {}),
              "Add the CHECK to the table with NOT VALID, and in a transaction of its own ALTER "
              "TABLE ... VALIDATE CONSTRAINT, which stops neither readers nor writers.");
    EXPECT_NE(advice(DdlRemedy::new_column, {}).find("the column"), std::string::npos);
}

TEST(UnseenTest, SaysWhy) {
    TestMemory memory;
    EXPECT_EQ(unseen_text(Unseen::nothing, 0, memory), "");
    EXPECT_EQ(unseen_text(Unseen::behind_heavy_work, 0, memory), "");
    EXPECT_EQ(
        unseen_text(Unseen::behind_deadline, 20 * kMillisecond, memory),
        "Stopped after pg_lockguard.preview_max_hold (20 ms): what comes later was not seen.");
    EXPECT_EQ(unseen_text(Unseen::many_partitions, 0, memory),
              "Not run, because it would lock more than 200 partitions: by rules; what it does "
              "with them was not seen.");
    for (int i = static_cast<int>(Unseen::behind_lock);
         i <= static_cast<int>(Unseen::mapped_catalog); i++)
        EXPECT_FALSE(unseen_text(static_cast<Unseen>(i), 0, memory).empty()) << i;
}

} // namespace
} // namespace lockguard::core
