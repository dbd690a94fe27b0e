// Whatever users may have chosen themselves (names, identifiers, queries) comes out on one line:
// control characters are replaced, so that nobody can forge a line of the server log.
#define FMT_HEADER_ONLY
// No locale: its facet would be made when the library is loaded. (The word of fmt 9 and 10, and
// that of 11 and later.)
#define FMT_STATIC_THOUSANDS_SEPARATOR ','
#define FMT_USE_LOCALE 0
#include "core/text.h"

#include "core/kept_array.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

constexpr Microseconds kSecond = 1000 * kMillisecond;
constexpr Microseconds kMinute = 60 * kSecond;
constexpr Microseconds kHour = 60 * kMinute;
constexpr Microseconds kDay = 24 * kHour;

template <class... Values>
void append(Text& text, fmt::format_string<Values...> format, Values&&... values) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Values>(values)...);
}

bool is_control(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
}

/// In quotes, with quotes inside doubled.
void append_quoted(Text& text, std::string_view name, char quote) {
    text += quote;
    for (const char c : name) {
        if (c == quote)
            text += quote;
        text += is_control(c) ? '?' : c;
    }
    text += quote;
}

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

bool is_prepared(const Culprit& culprit) {
    return culprit.pid == 0;
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

    if (!culprit.visible || !has_words(culprit.query))
        return false;
    text += ": ";
    append_query(text, culprit.query);
    return true;
}

/// "idle in transaction for 2 min while blocking PID 4712 (ALTER TABLE, AccessExclusiveLock on
/// relation 16402) for 30 s"
void append_offence(Text& text, const Termination& termination) {
    if (termination.victim_pid == 0)
        text += "prepared ";
    else if (termination.active)
        text += "at work on one statement ";
    else
        text +=
            termination.stalled ? "waiting for its client in a statement " : "idle in transaction ";
    if (termination.aborted)
        text += "(aborted) ";
    text += "for ";
    if (termination.victim_pid == 0)
        text += "at least "; // since it was first seen
    append_duration(text, termination.idle);
    append(text, " while blocking PID {} (", termination.blocked_pid);
    if (!termination.blocked_command.empty()) {
        append_name(text, termination.blocked_command);
        text += ", ";
    }
    if (termination.relation == 0) {
        text += "which waits for this transaction to end";
    } else {
        text += termination.blocked_mode.empty() ? "lock" : termination.blocked_mode;
        append(text, " on relation {}", termination.relation);
    }
    text += ") for ";
    append_duration(text, termination.blocked_for);
}

} // namespace

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

std::string_view failed_wait_detail(const FailedWait& wait, std::pmr::memory_resource& memory) {
    Text text(&memory);
    text += wait.command.empty() ? "The statement" : wait.command;
    text += " waited ";
    append_duration(text, wait.waited);
    text += " for ";
    text += wait.lock_mode.empty() ? "a lock" : wait.lock_mode;
    if (!wait.object.empty()) {
        text += " on ";
        append_name(text, wait.object);
    }
    if (wait.kept_waiting > 0) {
        append(text, ", while {} session{} waited for locks of its transaction, for up to ",
               wait.kept_waiting, wait.kept_waiting == 1 ? "" : "s");
        append_duration(text, wait.kept_waiting_for);
    }
    text += ". ";
    if (wait.culprits.empty()) {
        text += "It was queued behind other requests; nobody holds a conflicting lock any more.";
        return keep_text(text, memory);
    }

    append_culprits(text, wait.culprits);
    return keep_text(text, memory);
}

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

std::string_view failed_wait_hint(const FailedWait& wait, std::pmr::memory_resource& memory) {
    Text text(&memory);
    const std::string_view again = wait.command.empty() ? "the statement" : wait.command;
    if (wait.kept_waiting > 0) {
        append(text,
               "Roll back and retry the whole transaction, best with {} before any other statement "
               "that takes locks.",
               again);
        return keep_text(text, memory);
    }
    if (wait.culprits.empty()) {
        append(text,
               "SELECT * FROM lock_tree() shows who blocks whom; run {} again when the requests "
               "ahead of it are done.",
               again);
        return keep_text(text, memory);
    }

    const Culprit& culprit = wait.culprits.front();
    const bool autovacuum = culprit.process == "autovacuum worker";
    const bool client = culprit.process.empty();
    if (is_prepared(culprit)) {
        append_prepared_advice(text, culprit);
        append(text, ", then run {} again.", again);
    } else if (autovacuum && culprit.visible && culprit.against_wraparound) {
        append(text,
               "This autovacuum worker works against transaction ID wraparound and does not give "
               "way: run {} again when it has finished.",
               again);
    } else if (autovacuum) {
        append(text,
               "An autovacuum worker{} gives way to a request that has waited for "
               "deadlock_timeout: run {} again with pg_lockguard.ddl_lock_timeout and lock_timeout "
               "above that.",
               culprit.visible ? "" : ", unless it works against wraparound,", again);
    } else if (!culprit.visible) {
        append(text,
               "Run {} again when PID {} has finished; members of pg_read_all_stats can see what "
               "it does.",
               again, culprit.pid);
    } else if (culprit.idle_in_transaction) {
        append(text,
               "Commit or roll back the transaction of PID {0}, or end its session with SELECT "
               "pg_terminate_backend({0}), then run {1} again.",
               culprit.pid, again);
    } else if (client && culprit.state == "idle") {
        append(text,
               "Run {1} again; if PID {0} still blocks it while idle, it keeps a session-level "
               "lock, which SELECT pg_terminate_backend({0}) releases.",
               culprit.pid, again);
    } else if (client && (culprit.state == "active" || culprit.state == "fastpath function call")) {
        append(text,
               "Run {1} again when PID {0} has finished, or cancel its statement with SELECT "
               "pg_cancel_backend({0}).",
               culprit.pid, again);
    } else {
        append(text,
               "Run {} again when PID {} has finished; SELECT * FROM lock_tree() shows who blocks "
               "whom.",
               again, culprit.pid);
    }
    return keep_text(text, memory);
}

std::string_view next_step_text(NextStep step, Microseconds within, bool against_wraparound,
                                std::pmr::memory_resource& memory) {
    Text text(&memory);
    const auto append_limit = [&](std::string_view before) {
        if (within < 0)
            return;
        text += before;
        append_duration(text, within);
    };
    switch (step) {
    case NextStep::try_locks:
        text += "takes its locks if they are free";
        break;
    case NextStep::await_holders:
        text += against_wraparound
                    ? "waits for an autovacuum worker against wraparound, which does not give way"
                    : "tries again when a holder's transaction ends";
        append_limit("; looks again within ");
        break;
    case NextStep::retry:
        text += "tries again";
        append_limit(" within ");
        break;
    case NextStep::stand_in_queue:
        text += "stands in the lock queue";
        append_limit(" for at most ");
        break;
    case NextStep::finish:
        text += "runs: it has its locks";
        break;
    case NextStep::end_holders:
        text += "ends the sessions that hold the lock";
        break;
    }
    return keep_text(text, memory);
}

std::string_view eviction_detail(const Eviction& eviction, std::pmr::memory_resource& memory) {
    Text text("pg_lockguard: ended by PID ", &memory);
    append(text, "{}, whose {} waited ", eviction.pid, eviction.command);
    append_duration(text, eviction.waited);
    append(text, " for {}", eviction.lock_mode);
    if (eviction.relation != 0)
        append(text, " on relation {}", eviction.relation);
    text += " (pg_lockguard.ddl_on_timeout = terminate).";
    return keep_text(text, memory);
}

std::string_view victim_detail(const Termination& termination, std::pmr::memory_resource& memory) {
    Text text("pg_lockguard: ", &memory);
    append_offence(text, termination);
    text += '.';
    return keep_text(text, memory);
}

std::string_view victim_hint() {
    return "The transaction was rolled back. Connect again to repeat it, and end transactions as "
           "soon as their work is done.";
}

std::string_view cancel_hint() {
    return "Roll back and repeat the transaction. Long work that must not be cancelled can be "
           "exempted by the administrator (pg_lockguard.exempt_roles, exempt_applications, "
           "protected).";
}

std::string_view termination_log_line(const Termination& termination,
                                      std::pmr::memory_resource& memory) {
    Text text(&memory);
    if (termination.victim_pid == 0) {
        append(text, "prepared transaction {}", termination.prepared_xid);
    } else {
        append(text, "PID {}", termination.victim_pid);
    }
    const std::size_t before_details = text.size();
    const auto begin_detail = [&] { text += text.size() == before_details ? " (" : ", "; };
    if (!termination.role.empty()) {
        begin_detail();
        text += "user ";
        append_name(text, termination.role);
    }
    if (!termination.database.empty()) {
        begin_detail();
        text += "database ";
        append_name(text, termination.database);
    }
    if (!termination.application.empty()) {
        begin_detail();
        text += "app ";
        append_quoted(text, termination.application, '"');
    }
    if (text.size() > before_details)
        text += ')';
    text += ": ";
    append_offence(text, termination);
    if (termination.others_blocked > 0)
        append(text, ", and {} more session{}", termination.others_blocked,
               termination.others_blocked == 1 ? "" : "s");
    return keep_text(text, memory);
}

} // namespace lockguard::core
