#include "worker/blocker_cancel.h"

#include "core/blocker_policy.h"
#include "sessions/shared_snapshots.h"
#include "sessions/statement_cancel.h"

namespace lockguard::pg {

namespace {

struct LastCheck {
    const BlockerIdentity* blocker;
    const RequestIdentity* request;
    TerminationResult* result;
};

bool still_blocks(const void* argument) {
    const auto* check = static_cast<const LastCheck*>(argument);
    *check->result = check_blocks(*check->blocker, *check->request);
    return *check->result == TerminationResult::signaled;
}

StatementIdentity statement_of(const BlockerIdentity& blocker) {
    return {blocker.session, blocker.state_start};
}

const char* reason(CancelResult result, TerminationResult last_check) {
    switch (result) {
    case CancelResult::signaled:
        return nullptr;
    case CancelResult::not_wanted:
        return termination_result_text(last_check);
    default:
        return cancel_result_text(result);
    }
}

} // namespace

const char* cancel_blocker(const BlockerIdentity& blocker, const RequestIdentity& request,
                           const char* detail, const char* hint) {
    if (shares_snapshot(blocker.session))
        return core::spare_reason_text(core::SpareReason::shared_snapshot).data();
    TerminationResult result = TerminationResult::signaled;
    LastCheck check = {&blocker, &request, &result};
    CancelResult cancel =
        cancel_statement(statement_of(blocker), detail, hint, still_blocks, &check);
    return reason(cancel, result);
}

const char* rehearse_blocker_cancel(const BlockerIdentity& blocker,
                                    const RequestIdentity& request) {
    TerminationResult result = TerminationResult::signaled;
    LastCheck check = {&blocker, &request, &result};
    return reason(rehearse_cancel(statement_of(blocker), still_blocks, &check), result);
}

CancelOutcome outcome_of_cancel(const BlockerIdentity& blocker, RequestIdentity request) {
    request.client_pid = 0; // who waits behind it may come and go
    // First the statement: at its end the locks are given back before the status says so. So what
    // is still held when it is over, is kept.
    bool runs = is_in_statement(statement_of(blocker));
    switch (blocks(blocker, request)) {
    case TerminationResult::signaled:
        return runs ? CancelOutcome::still_runs : CancelOutcome::keeps_lock;
    case TerminationResult::request_gone:
        return CancelOutcome::request_gone;
    case TerminationResult::lock_released:
        return CancelOutcome::lock_released;
    default:
        return CancelOutcome::transaction_over;
    }
}

} // namespace lockguard::pg
