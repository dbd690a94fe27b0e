// The words that users read: in errors, in the server log, to the victim of a termination.
//
// Every function of this folder that returns text returns it in `memory`, NUL-terminated after its
// end, so that data() is a C string. All throw std::bad_alloc and nothing else.
//
// Whatever users may have chosen themselves (names, identifiers, queries) comes out on one line:
// control characters are replaced, so that nobody can forge a line of the server log.
#pragma once

#include "core/time.h"

#include <memory_resource>
#include <string>
#include <string_view>

namespace lockguard::core {

/// "350 ms", "2.0 s", "30 s", "10 min", "3 h", "4 d": two significant figures at most below 10 s,
/// whole units above, rounded down; negative is "0 ms".
std::string_view duration_text(Microseconds duration, std::pmr::memory_resource& memory);
void append_duration(std::pmr::string& text, Microseconds duration);

/// A name that somebody has chosen, on one line; the second in double quotes.
void append_name(std::pmr::string& text, std::string_view name);
void append_quoted_name(std::pmr::string& text, std::string_view name);
/// The same in other quotes, with quotes inside doubled.
void append_quoted(std::pmr::string& text, std::string_view name, char quote);

/// A byte that must not stand in a line.
bool is_control(char c);

/// Copies text into memory and ends it with a NUL.
std::string_view keep_text(std::string_view text, std::pmr::memory_resource& memory);

} // namespace lockguard::core
