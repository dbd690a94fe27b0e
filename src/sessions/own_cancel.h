// A statement of this session that the session itself cuts short, at its next check for interrupts,
// as a cancel request would, but without a signal. Several may have their reasons for that at once,
// and others may send a cancel request meanwhile: each keeps an OwnCancel of its own, which tells
// whether what it has asked for has been served, and whether an error is that
// (sessions/cancel_round).
#pragma once

#include <csignal>

#include "boundary/compat.h"
#include "sessions/cancel_round.h"

namespace lockguard::pg {

/// Of one who may cut a statement short. Plain data; all 0 for one who has not. Written by signal
/// handlers where they ask, with signals held off.
struct OwnCancel {
    CancelReason reason;
    volatile sig_atomic_t asked;  // in `round`, and not taken back
    volatile uint32 round;        // the latest
    volatile sig_atomic_t served; // in `served_in`, the latest in which it was
    volatile uint32 served_in;
};

/// From now on the statement may be cut short. Serves what is pending now, and so may ereport.
void allow_own_cancel(OwnCancel* cancel, CancelReason reason);

/// Cuts it. Returns false where that has been asked for and not been served yet, and while the
/// process exits. May be called by a signal handler; never ereports.
bool ask_own_cancel(OwnCancel* cancel);

/// What has been asked for and was not served never will be; a cancel request or a timeout that
/// came with it still will. For the end of the statement that may be cut. Returns whether there was
/// such a thing. Never ereports: for error paths too.
bool withdraw_own_cancel(OwnCancel* cancel);

// To be asked when it is withdrawn. They never ereport.

/// Has it been served since allow_own_cancel(), whatever has become of the error: a function may
/// have caught it, or raised another in its place.
bool has_cut(const OwnCancel& cancel);

/// Is this error that cut, and nothing else? It is to be the latest that was raised by a check for
/// interrupts: so it is to be asked before any other. False where somebody with a stronger reason
/// has asked together with it.
bool is_own_cancel(const OwnCancel& cancel, const ErrorData* error);

} // namespace lockguard::pg
