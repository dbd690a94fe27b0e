// Texts made of names that anybody may choose: one line stays one line, and nothing ends its quotes
// before its time.
#include "core/tree_drawing.h"
#include "core/words/events.h"
#include "core/words/text.h"

#include "fuzz_input.h"

#include <string>
#include <vector>

namespace lockguard::fuzz {
namespace {

using namespace core;

EventLine any_event(Input& input) {
    EventLine line = {};
    line.kind = "blocker_terminated";
    line.id = input.number<std::int64_t>();
    line.pid = input.number<std::int32_t>();
    line.database = input.text();
    line.role = input.text();
    line.application = input.text();
    line.command = input.text();
    line.relation = input.text();
    line.lock_mode = input.text();
    line.waited = input.number<std::int64_t>();
    line.stall = input.number<std::int64_t>();
    line.attempts = input.number<std::int32_t>();
    line.blocker_pid = input.number<std::int32_t>();
    line.blocker_role = input.text();
    line.blocker_application = input.text();
    line.blocker_state = input.text();
    line.blocker_idle = input.number<std::int64_t>();
    line.reason = input.text();
    return line;
}

/// The value of a key, with backslashes taken off; reads the line as key=value pairs from its
/// beginning. Returns false where it is not made of such.
bool read_pairs(std::string_view line, std::string_view wanted, std::string* value, int* found) {
    *found = 0;
    while (!line.empty()) {
        const std::size_t equals = line.find('=');
        if (equals == std::string_view::npos)
            return false;
        const std::string_view key = line.substr(0, equals);
        line.remove_prefix(equals + 1);
        std::string text;
        if (!line.empty() && line.front() == '"') {
            std::size_t i = 1;
            for (; i < line.size() && line[i] != '"'; i++) {
                if (line[i] == '\\')
                    i++;
                if (i >= line.size())
                    return false;
                text += line[i];
            }
            if (i >= line.size())
                return false;
            line.remove_prefix(i + 1);
        } else {
            const std::size_t space = line.find(' ');
            text = line.substr(0, space);
            line.remove_prefix(space == std::string_view::npos ? line.size() : space);
        }
        if (key == wanted) {
            *value = text;
            ++*found;
        }
        if (!line.empty() && line.front() != ' ')
            return false;
        if (!line.empty())
            line.remove_prefix(1);
    }
    return true;
}

std::string without_controls(std::string_view text) {
    std::string result(text);
    for (char& c : result)
        c = is_control(c) ? '?' : c;
    return result;
}

void check_line(const EventLine& event, std::string_view line) {
    require(!has_control(line, false), "an event is one line");
    const std::pair<std::string_view, std::string_view> values[] = {
        {"database", event.database},       {"user", event.role},
        {"application", event.application}, {"blocker_application", event.blocker_application},
        {"relation", event.relation},       {"reason", event.reason}};
    for (const auto& [key, value] : values) {
        std::string read;
        int found;
        require(read_pairs(line, key, &read, &found), "a line of key=value pairs");
        require(found == (value.empty() ? 0 : 1), "each key once, if it has a value");
        require(read == without_controls(value), "a value comes back as it was");
    }
}

} // namespace
} // namespace lockguard::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace lockguard::core;
    using namespace lockguard::fuzz;
    Input input(data, size);
    Memory memory(successes(input));
    try {
        const EventLine event = any_event(input);
        check_line(event, event_log_line(event, memory));
        std::pmr::string text(&memory);
        append_tree_label(text, {input.text(), input.text(), mode_name(input), input.text(),
                                 input.number<std::int64_t>()});
        append_name(text, input.text());
        append_quoted_name(text, input.text());
        append_duration(text, input.number<std::int64_t>());
        require(!has_control(text, false), "a label is one line");
        const std::string_view kept = keep_text(text, memory);
        require(kept.data()[kept.size()] == '\0', "a C string as well");
        const std::string_view duration = duration_text(input.number<std::int64_t>(), memory);
        require(!duration.empty() && duration.find('-') == std::string_view::npos,
                "a duration is not negative");
        // Bytes that may be a drawing.
        std::string drawing(input.rest());
        const std::size_t before = drawing.size();
        require(redraw_in_ascii(drawing) <= before, "never longer than before");
    } catch (const std::bad_alloc&) {
        return 0;
    }
    return 0;
}
