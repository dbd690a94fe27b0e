// A statement of this session that the session itself cuts short, at its next check for interrupts,
// as a cancel request would, but without a signal. Several may have their reasons for that at once,
// and others may send a cancel request meanwhile: each keeps an OwnCancel of its own, which tells
// whether what it has asked for has been served (sessions/cancel_round), and what was sent by
// others is kept apart (sessions/interrupt_watch).
#pragma once

#include <csignal>

#include "boundary/compat.h"
#include "sessions/interrupt_watch.h"

namespace lockguard::pg {

/// Of one who may cut a statement short. Plain data; all 0 for one who may not yet. Written by
/// signal handlers where they ask, with signals held off.
struct OwnCancel {
    InterruptMarks marks;        // as of allow_own_cancel()
    volatile sig_atomic_t asked; // in that round, the latest
    volatile uint32 round;
    volatile sig_atomic_t served; // in one before
};

/// From now on the statement may be cut short. Serves what is pending now, and so may ereport.
void allow_own_cancel(OwnCancel* cancel);

/// Cuts it. Again while that has not been served: nothing. May be called by a signal handler; never
/// ereports.
void ask_own_cancel(OwnCancel* cancel);

/// What has been asked for and was not served never will be; a cancel request or a timeout that
/// came with it still will. For the end of the statement that may be cut. Returns whether there was
/// such a thing. Never ereports: for error paths too.
bool withdraw_own_cancel(OwnCancel* cancel);

/// Has it been served since allow_own_cancel(), whatever has become of the error: it may be on its
/// way, or a function may have caught it, or raised another in its place. Never ereports.
bool has_cut(const OwnCancel& cancel);

/// Is this error that cut, and nothing else? False where somebody else has asked for a cancellation
/// as well. Never ereports.
bool is_own_cancel(const OwnCancel& cancel, const ErrorData* error);

} // namespace lockguard::pg
