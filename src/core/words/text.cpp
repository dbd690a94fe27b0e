#include "core/words/text.h"
#include "core/words/format.h"

#include "core/kept_array.h"

#include <algorithm>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

constexpr Microseconds kSecond = 1000 * kMillisecond;
constexpr Microseconds kMinute = 60 * kSecond;
constexpr Microseconds kHour = 60 * kMinute;
constexpr Microseconds kDay = 24 * kHour;

} // namespace

bool is_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
}

void append_quoted(Text& text, std::string_view name, char quote) {
    text += quote;
    for (const char c : name) {
        if (c == quote)
            text += quote;
        text += is_control(c) ? '?' : c;
    }
    text += quote;
}

void append_name(Text& text, std::string_view name) {
    for (const char c : name)
        text += is_control(c) ? '?' : c;
}

void append_quoted_name(Text& text, std::string_view name) {
    append_quoted(text, name, '"');
}

void append_duration(Text& text, Microseconds duration) {
    if (duration < kMillisecond) {
        text += "0 ms";
    } else if (duration < kSecond) {
        const Microseconds milliseconds = duration / kMillisecond;
        append(text, "{} ms", milliseconds < 100 ? milliseconds : milliseconds - milliseconds % 10);
    } else if (duration < 10 * kSecond) {
        append(text, "{}.{} s", duration / kSecond, duration % kSecond / (kSecond / 10));
    } else if (duration < kMinute) {
        append(text, "{} s", duration / kSecond);
    } else if (duration < kHour) {
        append(text, "{} min", duration / kMinute);
    } else if (duration < kDay) {
        append(text, "{} h", duration / kHour);
    } else {
        append(text, "{} d", duration / kDay);
    }
}

std::string_view keep_text(std::string_view text, std::pmr::memory_resource& memory) {
    KeptArray<char> kept(text.size() + 1, memory);
    std::copy(text.begin(), text.end(), kept.data());
    kept[text.size()] = '\0';
    return {kept.keep().data(), text.size()};
}

std::string_view duration_text(Microseconds duration, std::pmr::memory_resource& memory) {
    Text text(&memory);
    append_duration(text, duration);
    return keep_text(text, memory);
}

} // namespace lockguard::core
