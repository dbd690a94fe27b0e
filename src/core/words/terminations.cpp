#include "core/words/terminations.h"
#include "core/words/format.h"

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

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

std::string_view eviction_detail(const Eviction& eviction, std::pmr::memory_resource& memory) {
    Text text("pg_lockguard: ended by PID ", &memory);
    append(text, "{}, whose {} waited ", eviction.pid, eviction.command);
    append_duration(text, eviction.waited);
    append(text, " for {}", eviction.lock_mode);
    if (eviction.relation != 0)
        append(text, " on relation {}", eviction.relation);
    if (eviction.decided_by != 0)
        append(text, " (pg_lockguard_decide() by PID {}).", eviction.decided_by);
    else
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
