// Lines of key=value pairs for the server log. Empty text and negative numbers are left out.
#pragma once

#include "core/time.h"
#include "core/words/text.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

namespace lockguard::core {

inline void append_number(std::pmr::string& text, std::int64_t number) {
    std::array<char, 24> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number);
    text.append(digits.data(), end.ptr);
}

/// In double quotes; a quote or a backslash has a backslash before it. Control characters become
/// "?".
inline void append_quoted_value(std::pmr::string& text, std::string_view value) {
    text += '"';
    for (const char c : value) {
        if (c == '"' || c == '\\')
            text += '\\';
        text += is_control(c) ? '?' : c;
    }
    text += '"';
}

/// ` key="value"`.
inline void add_text(std::pmr::string& text, std::string_view key, std::string_view value) {
    if (value.empty())
        return;
    text += ' ';
    text += key;
    text += '=';
    append_quoted_value(text, value);
}

inline void add_number(std::pmr::string& text, std::string_view key, std::int64_t number) {
    if (number < 0)
        return;
    text += ' ';
    text += key;
    text += '=';
    append_number(text, number);
}

/// In milliseconds, with all digits.
inline void add_duration(std::pmr::string& text, std::string_view key, Microseconds duration) {
    if (duration < 0)
        return;
    add_number(text, key, duration / 1000);
    const auto rest = static_cast<int>(duration % 1000);
    text += '.';
    text += static_cast<char>('0' + rest / 100);
    text += static_cast<char>('0' + rest / 10 % 10);
    text += static_cast<char>('0' + rest % 10);
}

} // namespace lockguard::core
