#include "core/name_pattern.h"

namespace lockguard::core {
namespace {

constexpr PatternUnit kAnyCharacters = 0x100;
constexpr PatternUnit kEnd = 0x101;

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/// Goes through a list of patterns, one element at a time.
class PatternList {
  public:
    explicit PatternList(std::string_view list) : rest_(list) { skip_space(); }

    bool at_end() const { return rest_.empty(); }
    bool quotes_are_closed() const { return closed_; }

    /// Up to the next comma outside of quotes, without the white space around. Sets
    /// ends_with_comma().
    std::string_view next() {
        bool quoted = false;
        std::size_t i = 0;
        for (; i < rest_.size() && (quoted || rest_[i] != ','); ++i) {
            if (rest_[i] == '"')
                quoted = !quoted;
        }
        closed_ = !quoted;
        comma_ = i < rest_.size();
        std::string_view element = rest_.substr(0, i);
        while (!element.empty() && is_space(element.back()))
            element.remove_suffix(1);
        rest_.remove_prefix(comma_ ? i + 1 : i);
        skip_space();
        return element;
    }
    bool ends_with_comma() const { return comma_; }

  private:
    void skip_space() {
        while (!rest_.empty() && is_space(rest_.front()))
            rest_.remove_prefix(1);
    }

    std::string_view rest_;
    bool closed_ = true;
    bool comma_ = false;
};

/// One pattern, character by character, with the quotes taken off.
class PatternReader {
  public:
    explicit PatternReader(std::string_view pattern) : rest_(pattern) { pass_quotes(); }

    bool at_end() const { return rest_.empty(); }
    bool is_wildcard() const { return !quoted_ && rest_.front() == '*'; }
    char character() const { return rest_.front(); }
    void advance() {
        // A quote that stands for itself is doubled.
        rest_.remove_prefix(rest_.front() == '"' ? 2 : 1);
        pass_quotes();
    }

  private:
    /// Up to the next character that means something.
    void pass_quotes() {
        while (!rest_.empty() && rest_.front() == '"') {
            if (quoted_ && rest_.size() > 1 && rest_[1] == '"')
                return;
            quoted_ = !quoted_;
            rest_.remove_prefix(1);
        }
    }

    std::string_view rest_;
    bool quoted_ = false;
};

/// The usual way with one point to go back to: behind the latest wildcard. The pattern is without
/// its end.
bool matches(std::span<const PatternUnit> pattern, std::string_view name) {
    std::size_t p = 0;
    std::size_t i = 0;
    std::size_t behind_wildcard = 0; // 0: there was none
    std::size_t retry_at = 0;
    for (;;) {
        if (p < pattern.size() && pattern[p] == kAnyCharacters) {
            behind_wildcard = ++p;
            retry_at = i;
        } else if (i < name.size() && p < pattern.size() &&
                   pattern[p] == static_cast<unsigned char>(name[i])) {
            ++p;
            ++i;
        } else if (i == name.size() && p == pattern.size()) {
            return true;
        } else if (behind_wildcard > 0 && retry_at < name.size()) {
            p = behind_wildcard;
            i = ++retry_at;
        } else {
            return false;
        }
    }
}

} // namespace

std::string_view fault_of_patterns(std::string_view text) {
    PatternList list(text);
    if (list.at_end())
        return {};
    do {
        const std::string_view element = list.next();
        if (!list.quotes_are_closed())
            return "A quoted pattern does not end.";
        if (PatternReader(element).at_end())
            return "A pattern is empty.";
    } while (!list.at_end());
    return list.ends_with_comma() ? "A pattern is empty." : std::string_view();
}

std::size_t parse_patterns(std::string_view text, std::span<PatternUnit> units) {
    std::size_t count = 0;
    for (PatternList list(text); !list.at_end();) {
        PatternReader reader(list.next());
        if (reader.at_end())
            continue; // it matches nothing
        // A pattern has at least as many characters in the list as here, and behind each but the
        // last one is a comma.
        for (; !reader.at_end(); reader.advance())
            units[count++] = reader.is_wildcard() ? kAnyCharacters
                                                  : static_cast<unsigned char>(reader.character());
        units[count++] = kEnd;
    }
    return count;
}

bool matches_any(std::span<const PatternUnit> patterns, std::string_view name) {
    std::size_t first = 0;
    for (std::size_t i = 0; i < patterns.size(); ++i) {
        if (patterns[i] != kEnd)
            continue;
        if (matches(patterns.subspan(first, i - first), name))
            return true;
        first = i + 1;
    }
    return false;
}

} // namespace lockguard::core
