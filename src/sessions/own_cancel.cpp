#include "sessions/own_cancel.h"

#include <csignal>

extern "C" {
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

/// Since the innermost allow_own_cancel(). Written by a signal handler, too.
volatile sig_atomic_t asked;

bool is_user_request(const ErrorData* error) {
    const char* const request = "canceling statement due to user request";
    if (error->message_id != nullptr)
        return strcmp(error->message_id, request) == 0;
    return error->message != nullptr && strcmp(error->message, gettext(request)) == 0;
}

} // namespace

OwnCancel allow_own_cancel() {
    OwnCancel cancel = {mark_interrupts(), asked != 0};
    CHECK_FOR_INTERRUPTS();
    asked = 0;
    return cancel;
}

void ask_own_cancel() {
    if (proc_exit_inprogress)
        return;
    asked = 1;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
}

bool own_cancel_asked() {
    return asked != 0;
}

bool is_own_cancel(const OwnCancel& cancel, const ErrorData* error) {
    return asked != 0 && error->sqlerrcode == ERRCODE_QUERY_CANCELED && is_user_request(error) &&
           !cancel_came(cancel.marks);
}

void drop_own_cancel(const OwnCancel& cancel) {
    if (asked == 0 || !QueryCancelPending)
        return;
    // The cancellation that is pending is ours, and maybe somebody's as well: each notes itself
    // elsewhere before it asks for the cancellation, so that this order loses none.
    QueryCancelPending = false;
    if (cancel_came(cancel.marks) || get_timeout_indicator(STATEMENT_TIMEOUT, false) ||
        get_timeout_indicator(LOCK_TIMEOUT, false)) {
        QueryCancelPending = true;
        InterruptPending = true;
    }
}

void forbid_own_cancel(const OwnCancel& cancel) {
    drop_own_cancel(cancel);
    asked = cancel.outer_asked ? 1 : 0;
}

} // namespace lockguard::pg
