#include "core/words/waits.h"

#include "core/words/key_values.h"

#include <string>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

void append_statement(Text& text, const WaitWords& waiting) {
    text += waiting.wait.command.empty() ? std::string_view("The statement") : waiting.wait.command;
}

void append_lock(Text& text, const FailedWaitWords& wait) {
    text += wait.lock_mode.empty() ? std::string_view("a lock") : wait.lock_mode;
    if (!wait.object.empty()) {
        text += " on ";
        append_name(text, wait.object);
    }
}

void append_waiters_behind(Text& text, const FailedWaitWords& wait) {
    if (wait.kept_waiting == 0) {
        text += "Nobody waits behind it";
        return;
    }
    append_number(text, wait.kept_waiting);
    text += wait.kept_waiting == 1 ? " session waits" : " sessions wait";
    text += " for locks of its transaction, for up to ";
    append_duration(text, wait.kept_waiting_for);
    text += " so far";
}

void append_patience(Text& text, const WaitWords& waiting) {
    if (waiting.patience < 0) {
        text += "it waits for as long as it takes";
        return;
    }
    text += "in ";
    append_duration(text, waiting.patience);
    switch (waiting.end) {
    case PatienceEnd::failure:
        text += " it gives up";
        break;
    case PatienceEnd::queue:
        text += " it stands in the lock queue, where others wait behind it";
        break;
    case PatienceEnd::termination:
        text += " it ends the sessions that hold the lock";
        break;
    case PatienceEnd::statement_timeout:
        text += " statement_timeout cancels it";
        break;
    case PatienceEnd::transaction_timeout:
        text += " transaction_timeout ends its session";
        break;
    }
}

/// A call of a function with the pid, as one would type it.
void append_call(Text& text, std::string_view function, std::int32_t pid) {
    text += "SELECT ";
    text += function;
    text += '(';
    append_number(text, pid);
    text += ')';
}

void append_advice(Text& text, const Culprit& culprit) {
    const bool client = culprit.process.empty();
    if (culprit.pid == 0) {
        append_prepared_advice(text, culprit);
        text += '.';
    } else if (culprit.process == "autovacuum worker") {
        text += culprit.visible && culprit.against_wraparound
                    ? "This autovacuum worker works against transaction ID wraparound and does not "
                      "give way: it goes on when that has finished."
                    : "An autovacuum worker gives way by itself, unless it works against "
                      "wraparound.";
    } else if (!culprit.visible) {
        text += "Members of pg_read_all_stats can see what PID ";
        append_number(text, culprit.pid);
        text += " does.";
    } else if (culprit.idle_in_transaction) {
        text += "Commit or roll back the transaction of PID ";
        append_number(text, culprit.pid);
        text += ", or end its session with ";
        append_call(text, "pg_terminate_backend", culprit.pid);
        text += '.';
    } else if (client && culprit.state == "idle") {
        text += "If PID ";
        append_number(text, culprit.pid);
        text += " still blocks it while idle, it keeps a session-level lock, which ";
        append_call(text, "pg_terminate_backend", culprit.pid);
        text += " releases.";
    } else if (client && (culprit.state == "active" || culprit.state == "fastpath function call")) {
        text += "It goes on when PID ";
        append_number(text, culprit.pid);
        text += " has finished; ";
        append_call(text, "pg_cancel_backend", culprit.pid);
        text += " cancels the statement in its way.";
    } else {
        text += "SELECT * FROM lock_tree() shows who blocks whom.";
    }
}

} // namespace

std::string_view wait_notice_message(const WaitWords& waiting, std::pmr::memory_resource& memory) {
    Text text(&memory);
    append_statement(text, waiting);
    text += " has waited ";
    append_duration(text, waiting.wait.waited);
    text += " for ";
    append_lock(text, waiting.wait);
    return keep_text(text, memory);
}

std::string_view wait_notice_detail(const WaitWords& waiting, std::pmr::memory_resource& memory) {
    Text text(&memory);
    append_waiters_behind(text, waiting.wait);
    text += ", and ";
    append_patience(text, waiting);
    text += ". ";
    if (waiting.wait.culprits.empty())
        text += "Nobody was found who holds a conflicting lock.";
    else
        append_culprits(text, waiting.wait.culprits);
    return keep_text(text, memory);
}

std::string_view wait_notice_hint(const WaitWords& waiting, std::pmr::memory_resource& memory) {
    Text text(&memory);
    if (waiting.wait.culprits.empty())
        text += "SELECT * FROM lock_tree() shows who blocks whom.";
    else
        append_advice(text, waiting.wait.culprits.front());
    if (waiting.is_decidable) {
        text += " Others can decide for it: SELECT pg_lockguard_decide(";
        append_number(text, waiting.pid);
        text += ", 'give up'), or 'queue', or 'terminate'.";
    }
    return keep_text(text, memory);
}

std::string_view queue_notice_message(const WaitWords& waiting, std::pmr::memory_resource& memory) {
    Text text(&memory);
    append_statement(text, waiting);
    text += " stands in the queue from now on, after ";
    append_duration(text, waiting.wait.waited);
    text += ", for ";
    append_lock(text, waiting.wait);
    text += "; others wait behind it";
    return keep_text(text, memory);
}

std::string_view decision_text(const Decider& decider, std::pmr::memory_resource& memory) {
    Text text("PID ", &memory);
    append_number(text, decider.pid);
    if (!decider.application.empty() || !decider.role.empty()) {
        text += " (";
        if (!decider.application.empty()) {
            text += "app ";
            append_quoted_name(text, decider.application);
        }
        if (!decider.application.empty() && !decider.role.empty())
            text += ", ";
        if (!decider.role.empty()) {
            text += "user ";
            append_name(text, decider.role);
        }
        text += ')';
    }
    text += " decided: ";
    text += decider.decision;
    return keep_text(text, memory);
}

std::string_view next_step_text(NextStep step, Microseconds within, bool against_wraparound,
                                std::pmr::memory_resource& memory) {
    std::pmr::string text(&memory);
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

} // namespace lockguard::core
