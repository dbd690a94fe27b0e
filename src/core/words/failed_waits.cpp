#include "core/words/failed_waits.h"
#include "core/words/format.h"

namespace lockguard::core {

namespace {
using Text = std::pmr::string;
} // namespace

std::string_view failed_wait_detail(const FailedWaitWords& wait,
                                    std::pmr::memory_resource& memory) {
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

std::string_view failed_wait_hint(const FailedWaitWords& wait, std::pmr::memory_resource& memory) {
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

} // namespace lockguard::core
