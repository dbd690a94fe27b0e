#include "core/words/stalls.h"

#include "core/words/text.h"

#include <array>
#include <string>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

/// Commands of which there is a form that keeps nobody waiting, or not for long.
struct Advice {
    std::string_view command;
    std::string_view instead;
};

constexpr std::array kAdvice = {
    Advice{"ALTER TABLE", "do it in steps that hold the lock only for a moment: ADD CONSTRAINT ... "
                          "NOT VALID and VALIDATE CONSTRAINT, a new column that is filled in "
                          "batches in place of a rewrite, a CHECK constraint that spares a scan"},
    Advice{"CREATE INDEX", "use CREATE INDEX CONCURRENTLY"},
    Advice{"REINDEX", "use REINDEX CONCURRENTLY"},
    Advice{"DROP INDEX", "use DROP INDEX CONCURRENTLY"},
    Advice{"REFRESH MATERIALIZED VIEW", "use REFRESH MATERIALIZED VIEW CONCURRENTLY"},
};

std::string_view advice_for(std::string_view command) {
    for (const Advice& advice : kAdvice) {
        if (advice.command == command)
            return advice.instead;
    }
    return "do it in smaller steps";
}

void append_stall(Text& text, const Stall& stall) {
    text += "kept ";
    text += std::to_string(stall.sessions);
    text += stall.sessions == 1 ? " session waiting, for " : " sessions waiting, for up to ";
    append_duration(text, stall.longest);
    text += ", for ";
    text += stall.lock_mode.empty() ? "a lock" : stall.lock_mode;
    if (!stall.object.empty()) {
        text += " on ";
        append_name(text, stall.object);
    }
}

void append_whole(Text& text, const Stall& stall) {
    if (stall.kind == StallKind::guarded) {
        text += stall.command.empty() ? "The statement" : stall.command;
    } else {
        text += "Its transaction, which ";
        if (stall.kind == StallKind::idle)
            text += "was idle and ";
        else if (stall.kind == StallKind::stalled)
            text += "waited for its client in a statement and ";
        else if (stall.kind == StallKind::prepared)
            text += "was prepared and ";
        text += "has run ";
        text += stall.command.empty() ? "a guarded statement" : stall.command;
        text += ',';
    }
    text += ' ';
    append_stall(text, stall);
}

} // namespace

std::string_view stall_detail(const Stall& stall, std::pmr::memory_resource& memory) {
    Text text(&memory);
    append_whole(text, stall);
    text += "; the limit (pg_lockguard.ddl_max_stall) is ";
    append_duration(text, stall.limit);
    text += '.';
    return keep_text(text, memory);
}

std::string_view stall_hint(const Stall& stall, std::pmr::memory_resource& memory) {
    Text text(&memory);
    if (stall.kind == StallKind::guarded) {
        text += "To try it again as it is would keep others waiting again: ";
        text += advice_for(stall.command);
        text += "; or run it when nobody needs the table, with a higher "
                "pg_lockguard.ddl_max_stall.";
    } else {
        text += "Commit right after ";
        text += stall.command.empty() ? "the guarded statement" : stall.command;
        text += ", and do the rest in transactions of its own.";
    }
    return keep_text(text, memory);
}

std::string_view stall_victim_detail(const Stall& stall, std::pmr::memory_resource& memory) {
    Text text(&memory);
    text += "pg_lockguard: ";
    const std::size_t begin = text.size();
    append_whole(text, stall);
    if (text[begin] == 'I')
        text[begin] = 'i';
    text += '.';
    return keep_text(text, memory);
}

} // namespace lockguard::core
