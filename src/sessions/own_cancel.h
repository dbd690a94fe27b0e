// A statement of this session that the session itself cuts short, at its next check for interrupts,
// as a cancel request would, but without a signal. What was sent by others meanwhile is kept apart:
// see sessions/interrupt_watch.
#pragma once

#include "boundary/compat.h"
#include "sessions/interrupt_watch.h"

namespace lockguard::pg {

/// Of one statement that may be cut short. Plain data.
struct OwnCancel {
    InterruptMarks marks;
    bool outer_asked;
};

/// From now on the statement may be cut short. Nests: an inner statement is cut for itself. Serves
/// what is pending now, and so may ereport.
OwnCancel allow_own_cancel();

/// Cuts it. May be called by a signal handler; never ereports.
void ask_own_cancel();

/// Has it been asked since allow_own_cancel()? Never ereports.
bool own_cancel_asked();

/// Is this error that cut, and nothing else? False where somebody else has asked for a cancellation
/// as well. Never ereports.
bool is_own_cancel(const OwnCancel& cancel, const ErrorData* error);

/// What has been asked for and was not served never will be; a cancel request or a timeout that
/// came with it still will. For the end of the statement that may be cut. Never ereports.
void drop_own_cancel(const OwnCancel& cancel);

/// Ends what allow_own_cancel() began, whether the statement was cut or not. Never ereports: for
/// error paths too.
void forbid_own_cancel(const OwnCancel& cancel);

} // namespace lockguard::pg
