#include "core/words/events.h"

#include "core/words/key_values.h"

#include <algorithm>
#include <string>
#include <vector>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

void append_rest(Text& text, std::size_t rows) {
    text += "... and ";
    append_number(text, static_cast<std::int64_t>(rows));
    text += " more";
}

} // namespace

void append_tree_label(std::pmr::string& text, const TreeLabel& label) {
    const std::string_view name = label.gid.empty() ? label.application : label.gid;
    if (!name.empty()) {
        text += label.gid.empty() ? " " : " prepared ";
        append_quoted_value(text, name);
    }
    if (label.wants.empty())
        return;
    text += " wants ";
    text += label.wants;
    if (!label.object.empty()) {
        text += " on ";
        for (const char c : label.object)
            text += is_control(c) ? '?' : c;
    }
    if (label.waited >= 0) {
        text += " for ";
        append_duration(text, label.waited);
    }
}

std::string_view event_log_line(const EventLine& line, std::pmr::memory_resource& memory) {
    Text text("kind=", &memory);
    text += line.kind;
    add_number(text, "id", line.id);
    if (line.pid != 0)
        add_number(text, "pid", line.pid);
    add_text(text, "database", line.database);
    add_text(text, "user", line.role);
    add_text(text, "application", line.application);
    add_text(text, "command", line.command);
    add_text(text, "relation", line.relation);
    add_text(text, "lock_mode", line.lock_mode);
    add_duration(text, "waited_ms", line.waited);
    add_duration(text, "stall_ms", line.stall);
    add_number(text, "attempts", line.attempts);
    add_number(text, "blocker_pid", line.blocker_pid);
    add_text(text, "blocker_user", line.blocker_role);
    add_text(text, "blocker_application", line.blocker_application);
    add_text(text, "blocker_state", line.blocker_state);
    add_duration(text, "blocker_idle_ms", line.blocker_idle);
    add_text(text, "reason", line.reason);
    add_number(text, "repeats", line.repeats);
    return keep_text(text, memory);
}

std::string_view lock_tree_text(std::span<const ForestRow> rows, std::span<const TreeLabel> labels,
                                SessionIndex session, std::size_t limit,
                                std::pmr::memory_resource& memory) {
    const auto own = std::find_if(rows.begin(), rows.end(), [session](const ForestRow& row) {
        return row.session == session;
    });
    if (own == rows.end())
        return keep_text({}, memory);
    const auto in_tree = [own](const ForestRow& row) { return row.root == own->root; };
    // The rows of one tree stand together.
    const auto first = std::find_if(rows.begin(), rows.end(), in_tree);
    const auto end = std::find_if_not(first, rows.end(), in_tree);

    constexpr std::size_t kRoomForRest = 40; // of append_rest(), with a line break
    Text text(&memory);
    // Where to cut, should the rest not fit: behind which row there is still room to say so.
    std::size_t cut = 0;
    auto first_cut = first;
    for (auto row = first; row != end; ++row) {
        if (row != first)
            text += '\n';
        text += row->tree;
        if (row->session < labels.size())
            append_tree_label(text, labels[row->session]);
        if (text.size() > limit) {
            text.resize(cut);
            if (cut > 0)
                text += '\n';
            append_rest(text, static_cast<std::size_t>(end - first_cut));
            break;
        }
        if (text.size() + kRoomForRest <= limit) {
            cut = text.size();
            first_cut = row + 1;
        }
    }
    return keep_text(std::string_view(text).substr(0, limit), memory);
}

std::string_view culprit_tree_text(std::span<const Culprit> culprits, std::int32_t pid,
                                   const TreeLabel& statement, std::size_t limit,
                                   std::pmr::memory_resource& memory) {
    const auto shown = static_cast<SessionIndex>(std::min(culprits.size(), kDrawnCulprits));
    std::pmr::vector<Session> sessions(&memory);
    std::pmr::vector<TreeLabel> labels(&memory);
    std::pmr::vector<DirectWait> waits(&memory);
    for (SessionIndex i = 0; i < shown; i++) {
        sessions.push_back({culprits[i].pid});
        labels.push_back({culprits[i].application, culprits[i].gid, {}, {}, -1});
        waits.push_back({shown, i, kNoLockMode});
    }
    sessions.push_back({pid});
    labels.push_back(statement);
    const LockGraph graph = build_lock_graph({sessions, {}, {}, {}, waits}, memory);
    return lock_tree_text(grow_lock_forest(graph, {}, memory), labels, shown, limit, memory);
}

} // namespace lockguard::core
