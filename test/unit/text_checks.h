// What the tests of texts share.
#pragma once

#include "test_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <string_view>

namespace lockguard::core {

/// Calls make(memory) and checks what all functions of text.h promise.
template <class Make>
std::string checked(Make make) {
    TestMemory memory;
    const std::string_view text = make(memory);
    EXPECT_EQ(std::strlen(text.data()), text.size()) << "no NUL after the end";
    EXPECT_EQ(memory.live_blocks(), 1U) << "work space was left behind";
    EXPECT_EQ(memory.live_bytes(), text.size() + 1);
    EXPECT_FALSE(memory.misused());
    return std::string(text);
}

} // namespace lockguard::core
