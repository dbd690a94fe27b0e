#include "sessions/own_cancel.h"

#include "sessions/cancel_round.h"

namespace lockguard::pg {

namespace {

/// Asked for, and not served yet. Signals are held off.
bool is_pending(const OwnCancel& cancel) {
    return cancel.asked != 0 && is_pending_round(cancel.round);
}

} // namespace

void allow_own_cancel(OwnCancel* cancel) {
    *cancel = {mark_interrupts(), 0, 0, 0};
    CHECK_FOR_INTERRUPTS();
}

void ask_own_cancel(OwnCancel* cancel) {
    if (proc_exit_inprogress)
        return;
    hold_signals([cancel] {
        if (is_pending(*cancel))
            return;
        if (cancel->asked != 0)
            cancel->served = 1;
        cancel->asked = 1;
        cancel->round = join_cancel_round();
    });
}

bool withdraw_own_cancel(OwnCancel* cancel) {
    if (cancel->asked == 0)
        return false;
    bool withdrawn = false;
    hold_signals([cancel, &withdrawn] {
        withdrawn = is_pending(*cancel);
        if (withdrawn)
            leave_cancel_round();
        else
            cancel->served = 1;
        cancel->asked = 0;
    });
    return withdrawn;
}

bool has_cut(const OwnCancel& cancel) {
    if (cancel.served != 0 || cancel.asked == 0)
        return cancel.served != 0;
    bool pending = false;
    hold_signals([&cancel, &pending] { pending = is_pending(cancel); });
    return !pending;
}

bool is_own_cancel(const OwnCancel& cancel, const ErrorData* error) {
    return has_cut(cancel) && is_cancel_request(error) && !cancel_came(cancel.marks);
}

} // namespace lockguard::pg
