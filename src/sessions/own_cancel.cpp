#include "sessions/own_cancel.h"

#include "sessions/interrupt_watch.h"

namespace lockguard::pg {

namespace {

/// Asked for, and not served yet. Signals are held off.
bool is_pending(const OwnCancel& cancel) {
    return cancel.asked != 0 && is_pending_round(cancel.round);
}

void note_served(OwnCancel* cancel) {
    cancel->served = 1;
    cancel->served_in = cancel->round;
}

} // namespace

void allow_own_cancel(OwnCancel* cancel, CancelReason reason) {
    *cancel = {reason, 0, 0, 0, 0};
    watch_interrupts();
    CHECK_FOR_INTERRUPTS();
}

bool ask_own_cancel(OwnCancel* cancel) {
    if (proc_exit_inprogress)
        return false;
    bool joins = false;
    hold_signals([cancel, &joins] {
        joins = !is_pending(*cancel);
        if (!joins)
            return;
        if (cancel->asked != 0)
            note_served(cancel);
        cancel->asked = 1;
        cancel->round = join_cancel_round(cancel->reason);
    });
    return joins;
}

bool withdraw_own_cancel(OwnCancel* cancel) {
    if (cancel->asked == 0)
        return false;
    bool withdrawn = false;
    hold_signals([cancel, &withdrawn] {
        withdrawn = is_pending(*cancel);
        if (withdrawn)
            leave_cancel_round(cancel->reason);
        else
            note_served(cancel);
        cancel->asked = 0;
    });
    return withdrawn;
}

bool has_cut(const OwnCancel& cancel) {
    return cancel.served != 0;
}

bool is_own_cancel(const OwnCancel& cancel, const ErrorData* error) {
    if (!has_cut(cancel) || !is_cancel_request(error))
        return false;
    bool is_own = false;
    hold_signals(
        [&cancel, &is_own] { is_own = is_latest_answer(cancel.served_in, cancel.reason); });
    return is_own;
}

} // namespace lockguard::pg
