#include "core/words/culprits.h"
#include "core/words/format.h"

#include <algorithm>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

bool is_continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

bool is_ascii(char c) {
    return static_cast<unsigned char>(c) < 0x80;
}

/// Bytes of the UTF-8 sequence that text begins with; 0 where it is none.
std::size_t utf8_sequence(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text.front());
    const std::size_t size = lead < 0x80   ? 1
                             : lead < 0xc2 ? 0
                             : lead < 0xe0 ? 2
                             : lead < 0xf0 ? 3
                             : lead < 0xf5 ? 4
                                           : 0;
    if (size > text.size() || !std::all_of(text.begin() + 1, text.begin() + size, is_continuation))
        return 0;
    return size;
}

/// The longest beginning of text, of limit bytes at most, that ends between characters. ASCII
/// characters stand for themselves in every server encoding; a run of others is cut only where it
/// reads as UTF-8, and is left out as a whole where it doesn't: half a character of another
/// encoding could not be converted for the client.
std::string_view cut_text(std::string_view text, std::size_t limit) {
    if (text.size() <= limit)
        return text;
    if (is_ascii(text[limit]))
        return text.substr(0, limit);
    std::size_t run = limit;
    while (run > 0 && !is_ascii(text[run - 1]))
        --run;
    std::size_t end = run;
    while (end < limit) {
        const std::size_t size = utf8_sequence(text.substr(end));
        if (size == 0)
            return text.substr(0, run);
        if (end + size > limit)
            return text.substr(0, end);
        end += size;
    }
    return text.substr(0, is_continuation(text[limit]) ? run : limit);
}

/// On one line, cut to kQueryBytes.
void append_query(Text& text, std::string_view query) {
    // So much that cut_text() sees the whole character at the limit.
    constexpr std::size_t kEnough = kQueryBytes + 4;
    Text folded(text.get_allocator());
    bool space = false;
    for (const char c : query) {
        if (c == ' ' || is_control(c)) {
            space = !folded.empty();
            continue;
        }
        if (space)
            folded += ' ';
        space = false;
        folded += c;
        if (folded.size() >= kEnough)
            break;
    }
    while (!folded.empty() && (folded.back() == ';' || folded.back() == ' '))
        folded.pop_back(); // more text follows it
    const std::string_view shown = cut_text(folded, kQueryBytes);
    text += shown;
    if (shown.size() < folded.size())
        text += "...";
}

bool has_words(std::string_view query) {
    return !std::all_of(query.begin(), query.end(),
                        [](char c) { return c == ' ' || c == ';' || is_control(c); });
}

/// "idle in transaction for 10 min", "prepared 10 min ago". Appends nothing where nothing is known.
void append_state(Text& text, const Culprit& culprit) {
    if (is_prepared(culprit)) {
        text += "prepared";
        if (culprit.state_age >= 0) {
            text += ' ';
            append_duration(text, culprit.state_age);
            text += " ago";
        }
    } else if (culprit.state == "disabled") { // its track_activities is off
        text += "state not tracked";
    } else if (!culprit.state.empty()) {
        append_name(text, culprit.state);
        if (culprit.state_age >= 0) {
            text += " for ";
            append_duration(text, culprit.state_age);
        }
    }
}

/// `PID 4711 (app "sidekiq", user shop, idle in transaction for 10 min): SELECT ...`. Returns
/// whether a query stands at the end.
bool append_culprit(Text& text, const Culprit& culprit) {
    if (is_prepared(culprit)) {
        text += culprit.gid.empty() ? "a prepared transaction" : "prepared transaction ";
        if (!culprit.gid.empty())
            append_quoted(text, culprit.gid, '"');
    } else {
        if (!culprit.process.empty()) {
            append_name(text, culprit.process);
            text += ' ';
        }
        append(text, "PID {}", culprit.pid);
    }

    const std::size_t before_details = text.size();
    const auto begin_detail = [&] { text += text.size() == before_details ? " (" : ", "; };
    if (!culprit.application.empty()) {
        begin_detail();
        text += "app ";
        append_quoted(text, culprit.application, '"');
    }
    if (!culprit.role.empty()) {
        begin_detail();
        text += "user ";
        append_name(text, culprit.role);
    }
    if (culprit.visible && culprit.against_wraparound) {
        begin_detail();
        text += "against wraparound";
    }
    if (culprit.visible && (is_prepared(culprit) || !culprit.state.empty())) {
        begin_detail();
        append_state(text, culprit);
    }
    if (text.size() > before_details)
        text += ')';

    if (!culprit.visible)
        return false;
    const bool has_query = has_words(culprit.query);
    if (has_query) {
        text += ": ";
        append_query(text, culprit.query);
    }
    if (!has_words(culprit.first_statement))
        return has_query;
    text += "; it touched the relation first";
    if (culprit.first_statement_age >= 0) {
        text += ' ';
        append_duration(text, culprit.first_statement_age);
        text += " ago";
    }
    text += ": ";
    append_query(text, culprit.first_statement);
    return true;
}

} // namespace

void append_culprits(Text& text, std::span<const Culprit> culprits) {
    const std::size_t named = std::min(culprits.size(), kNamedCulprits);
    bool ends_with_query = false;
    for (std::size_t i = 0; i < named; ++i) {
        text += i == 0 ? "Blocked by " : "; also by ";
        ends_with_query = append_culprit(text, culprits[i]);
    }
    if (culprits.size() > named)
        append(text, ", and by {} more.", culprits.size() - named);
    else if (!ends_with_query)
        text += '.';
}

void append_prepared_advice(Text& text, const Culprit& culprit) {
    if (culprit.gid.empty() || std::any_of(culprit.gid.begin(), culprit.gid.end(), is_control)) {
        text += "Find the prepared transaction in pg_prepared_xacts and run COMMIT PREPARED or "
                "ROLLBACK PREPARED for it";
        return;
    }
    text += "Run COMMIT PREPARED ";
    append_quoted(text, culprit.gid, '\'');
    text += " or ROLLBACK PREPARED ";
    append_quoted(text, culprit.gid, '\'');
}

} // namespace lockguard::core
