// Patterns of names, as in pg_lockguard.exempt_applications: read once, when the setting is set,
// and matched often.
//
// A list is separated by commas, white space around a pattern does not count, `*` stands for any
// characters, and double quotes make commas, white space and `*` literal ("" inside them is one
// quote). Upper and lower case differ. An empty pattern is allowed only by a list that is empty as
// a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace lockguard::core {

/// A list that has been read is a row of these: a character, or what parse_patterns() puts in for
/// any characters and for the end of a pattern. Plain data.
using PatternUnit = std::uint16_t;

/// Is that a list as described above? Else it says what is wrong, in static text.
/// \return empty where the list is right
std::string_view fault_of_patterns(std::string_view list);

/// Reads a list. What is wrong with it, by fault_of_patterns(), is taken as well as can be.
///
/// \param units  list.size() + 1 of them at least
/// \return how many of them the list takes
std::size_t parse_patterns(std::string_view list, std::span<PatternUnit> units);

/// Does the name match one of the patterns?
bool matches_any(std::span<const PatternUnit> patterns, std::string_view name);

} // namespace lockguard::core
