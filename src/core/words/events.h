// The words of the record: the line in the server log for an event, and the lock tree of that
// moment as text.
#pragma once

#include "core/lock_forest.h"
#include "core/lock_graph.h"
#include "core/words/culprits.h"

#include <cstdint>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>

namespace lockguard::core {

/// An event as the log tells it. Empty text and negative numbers are left out.
struct EventLine {
    std::string_view kind;
    std::int64_t id;
    std::int32_t pid; // 0 is left out
    std::string_view database;
    std::string_view role;
    std::string_view application;
    std::string_view command;
    std::string_view relation;
    std::string_view lock_mode;
    Microseconds waited;
    Microseconds stall;
    std::int32_t attempts;
    std::int32_t blocker_pid; // negative is left out
    std::string_view blocker_role;
    std::string_view blocker_application;
    std::string_view blocker_state;
    Microseconds blocker_idle;
    std::string_view reason;
    std::int64_t repeats = -1;
};

/// `kind=blocker_terminated id=7 pid=4712 command="ALTER TABLE" waited_ms=30000.120 ...`: one line
/// of key=value pairs, with double quotes around every text but the kind; a quote or a backslash in
/// a text has a backslash before it. Never a query. Control characters become "?".
std::string_view event_log_line(const EventLine& line, std::pmr::memory_resource& memory);

/// What stands behind a session in the tree.
struct TreeLabel {
    std::string_view application; // may be empty
    std::string_view gid;         // of a prepared transaction
    std::string_view wants;       // the mode that it waits for; empty where it does not wait
    std::string_view object;      // what it waits for
    Microseconds waited;          // negative where unknown
};

/// ` "migrate" wants AccessExclusiveLock on relation 16402 for 30 s`. Control characters become
/// "?".
void append_tree_label(std::pmr::string& text, const TreeLabel& label);

/// The tree that `session` is in, one line for each row, from the root down:
///
///     4711 "psql"
///     └─ 4712 "migrate" wants AccessExclusiveLock on relation 16402 for 30 s
///
/// Whole lines only, of `limit` bytes at most; the last one tells how many are left out. Empty
/// where the session is in no tree.
std::string_view lock_tree_text(std::span<const ForestRow> rows, std::span<const TreeLabel> labels,
                                SessionIndex session, std::size_t limit,
                                std::pmr::memory_resource& memory);

constexpr std::size_t kDrawnCulprits = 50;

/// The same for a statement and those who are known to be in its way, the first kDrawnCulprits of
/// them: the statement stands under the one that lock_tree() would put it under.
std::string_view culprit_tree_text(std::span<const Culprit> culprits, std::int32_t pid,
                                   const TreeLabel& statement, std::size_t limit,
                                   std::pmr::memory_resource& memory);

} // namespace lockguard::core
