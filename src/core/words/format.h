// The only place that knows of fmt. For the sources of this folder, first of all includes.
#pragma once

#define FMT_HEADER_ONLY
// No locale: its facet would be made when the library is loaded. (The word of fmt 9 and 10, and
// that of 11 and later.)
#define FMT_STATIC_THOUSANDS_SEPARATOR ','
#define FMT_USE_LOCALE 0
#include <fmt/format.h>

#include <iterator>
#include <string>
#include <utility>

namespace lockguard::core {

/// Appends values in a format that is checked when it is compiled.
template <class... Values>
void append(std::pmr::string& text, fmt::format_string<Values...> format, Values&&... values) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Values>(values)...);
}

} // namespace lockguard::core
