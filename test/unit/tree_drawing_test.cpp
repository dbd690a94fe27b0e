#include "core/tree_drawing.h"

#include <gtest/gtest.h>

#include <string>

namespace lockguard::core {
namespace {

std::string in_ascii(std::string text) {
    text.resize(redraw_in_ascii(text));
    return text;
}

TEST(RedrawInAsciiTest, EveryStroke) {
    EXPECT_EQ(in_ascii("4711"), "4711");
    EXPECT_EQ(in_ascii("├─ 4712"), "|- 4712");
    EXPECT_EQ(in_ascii("│  └─ 4713"), "|  `- 4713");
    EXPECT_EQ(in_ascii("   └─ 4713"), "   `- 4713");
    EXPECT_EQ(in_ascii("…20 └─ 4714"), "...20 `- 4714");
    EXPECT_EQ(in_ascii(""), "");
}

TEST(RedrawInAsciiTest, OtherTextStays) {
    EXPECT_EQ(in_ascii("└─ 4713 caf\xc3\xa9\n└─ 1"), "`- 4713 caf\xc3\xa9\n`- 1");
    EXPECT_EQ(in_ascii("\xe2\x94"), "\xe2\x94") << "cut in the middle of a stroke";
}

} // namespace
} // namespace lockguard::core
