// Lists of patterns: nothing is written beyond what is promised, and a list that is right matches
// what a slow and simple reading of it matches.
#include "core/name_pattern.h"

#include "fuzz_input.h"

#include <memory>
#include <string>
#include <vector>

namespace lockguard::fuzz {
namespace {

using namespace core;

constexpr int kAny = -1;
using Pattern = std::vector<int>;

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/// The list as patterns, character by character; white space outside of quotes counts within a
/// pattern only.
std::vector<Pattern> read_simply(std::string_view list) {
    std::vector<Pattern> patterns;
    Pattern pattern;
    std::size_t kept = 0; // of the pattern, without white space at its end
    bool begun = false;   // a quote begins it, whatever it contains
    bool quoted = false;
    const auto finish = [&] {
        pattern.resize(kept);
        if (!pattern.empty())
            patterns.push_back(pattern);
        pattern.clear();
        kept = 0;
        begun = false;
    };
    for (std::size_t i = 0; i < list.size(); i++) {
        const char c = list[i];
        if (c == '"') {
            if (quoted && i + 1 < list.size() && list[i + 1] == '"') {
                pattern.push_back('"');
                kept = pattern.size();
                i++;
            } else {
                quoted = !quoted;
                begun = true;
                kept = pattern.size();
            }
        } else if (quoted) {
            pattern.push_back(static_cast<unsigned char>(c));
            kept = pattern.size();
        } else if (c == ',') {
            finish();
        } else if (is_space(c)) {
            if (!pattern.empty() || begun)
                pattern.push_back(static_cast<unsigned char>(c));
        } else {
            pattern.push_back(c == '*' ? kAny : static_cast<unsigned char>(c));
            kept = pattern.size();
        }
    }
    finish();
    return patterns;
}

/// Which ends of the name's beginnings match, column by column.
bool matches_simply(const Pattern& pattern, std::string_view name) {
    std::vector<bool> reached(name.size() + 1);
    reached[0] = true;
    for (const int unit : pattern) {
        std::vector<bool> next(name.size() + 1);
        bool any = false;
        for (std::size_t i = 0; i <= name.size(); i++) {
            if (unit == kAny) {
                any = any || reached[i];
                next[i] = any;
            } else if (i > 0) {
                next[i] = reached[i - 1] && static_cast<unsigned char>(name[i - 1]) == unit;
            }
        }
        reached = next;
    }
    return reached[name.size()];
}

} // namespace
} // namespace lockguard::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace lockguard::core;
    using namespace lockguard::fuzz;
    Input input(data, std::min<std::size_t>(size, 400));
    const std::string name(input.text());
    const std::string list(input.rest());
    const bool right = fault_of_patterns(list).empty();
    const auto units = std::make_unique<PatternUnit[]>(list.size() + 1);
    const std::size_t count = parse_patterns(list, {units.get(), list.size() + 1});
    require(count <= list.size() + 1, "no more than there is room for");
    const bool matched = matches_any({units.get(), count}, name);
    if (!right || name.find('\0') != std::string::npos)
        return 0;
    bool expected = false;
    for (const Pattern& pattern : read_simply(list))
        expected = expected || matches_simply(pattern, name);
    require(matched == expected, "matches what the list says");
    return 0;
}
