#include "sessions/statement_cancel.h"

#include "sessions/backend_status.h"
#include "sessions/signals.h"
#include "shmem/cancel_notice.h"

extern "C" {
#include "replication/syncrep.h"
}

namespace lockguard::pg {

namespace {

/// All but the statement. The caller holds the process's fpInfoLock.
CancelResult check_transaction(const StatementIdentity& statement, CancelCondition condition,
                               const void* argument) {
    if (!is_in_transaction(statement.session))
        return CancelResult::other_transaction;
    if (condition != nullptr && !condition(argument))
        return CancelResult::not_wanted;
    return CancelResult::signaled;
}

/// The last thing to ask.
CancelResult check_statement(const StatementIdentity& statement) {
    if (waits_for_standbys(statement.session.procno))
        return CancelResult::commits;
    return is_in_statement(statement) ? CancelResult::signaled : CancelResult::other_statement;
}

template <std::size_t N>
void set_text(char (&field)[N], const char* text) {
    strlcpy(field, text != nullptr ? text : "", sizeof(field));
}

} // namespace

CancelResult cancel_statement(const StatementIdentity& statement, const char* detail,
                              const char* hint, CancelCondition condition, const void* argument,
                              const char* message) {
    CancelNotice notice = {};
    notice.pid = statement.session.pid;
    notice.lxid = statement.session.lxid;
    notice.statement = statement.start;
    set_text(notice.message, message);
    set_text(notice.detail, detail);
    set_text(notice.hint, hint);

    PGPROC* proc = GetPGProcByNumber(statement.session.procno);
    LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
    CancelResult result = check_transaction(statement, condition, argument);
    if (result == CancelResult::signaled) {
        // First the notice: the statement may be over before kill() returns. And nothing comes
        // between the last look and the signal.
        if (detail != nullptr)
            post_cancel_notice(statement.session.procno, notice);
        result = check_statement(statement);
        if (result == CancelResult::signaled && !send_sigint(statement.session.pid))
            result = CancelResult::signal_failed;
        if (result != CancelResult::signaled)
            withdraw_cancel_notice(statement.session.procno, notice);
    }
    LWLockRelease(&proc->fpInfoLock);
    return result;
}

CancelResult rehearse_cancel(const StatementIdentity& statement, CancelCondition condition,
                             const void* argument) {
    PGPROC* proc = GetPGProcByNumber(statement.session.procno);
    LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
    CancelResult result = check_transaction(statement, condition, argument);
    if (result == CancelResult::signaled)
        result = check_statement(statement);
    LWLockRelease(&proc->fpInfoLock);
    return result;
}

bool waits_for_standbys(int procno) {
    const PGPROC* proc = GetPGProcByNumber(procno);
    return *const_cast<const volatile decltype(proc->syncRepState)*>(&proc->syncRepState) !=
           SYNC_REP_NOT_WAITING;
}

bool is_in_statement(const StatementIdentity& statement) {
    BackendStateOnly state;
    return read_backend_state(statement.session, &state) && is_active(state.state) &&
           state.state_start == statement.start;
}

const char* cancel_result_text(CancelResult result) {
    switch (result) {
    case CancelResult::signaled:
        return "it has been sent SIGINT";
    case CancelResult::other_transaction:
        return "it is no longer in the transaction that was judged";
    case CancelResult::other_statement:
        return "it is no longer in the statement that was judged";
    case CancelResult::commits:
        return "it waits until synchronous standbys have its commit";
    case CancelResult::not_wanted:
        return "it no longer blocks the request, or that no longer waits";
    case CancelResult::signal_failed:
        return "the operating system did not deliver SIGINT";
    }
    return "";
}

} // namespace lockguard::pg
