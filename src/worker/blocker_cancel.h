// Cancels the statement of a blocker, and is certain that it still blocks:
// sessions/statement_cancel knows the transaction and the statement, this knows the lock and the
// request.
#pragma once

#include "worker/last_check.h"

namespace lockguard::pg {

/// Has the session cancel its statement, and leaves word of the reason, if at this moment the
/// request still waits, and the session still holds a conflicting mode, in the same transaction,
/// and in the statement that was judged. Otherwise it does nothing. Checks no privileges. Never
/// ereports.
///
/// What a session that works does can't be held still: whether it shares a snapshot is asked again
/// right before. One that it exports, or a protection that it puts on, in this very statement in
/// the microseconds after that comes too late.
///
/// \param detail  what the client is to read; likewise hint
/// \return why not, in static words that follow "PID n is left alone: "; null where it was signaled
const char* cancel_blocker(const BlockerIdentity& blocker, const RequestIdentity& request,
                           const char* detail, const char* hint);

/// The same without notice and signal: would it do it?
const char* rehearse_blocker_cancel(const BlockerIdentity& blocker, const RequestIdentity& request);

/// What has become of a session whose statement was cancelled, or would have been.
enum class CancelOutcome {
    still_runs,       // and still blocks
    transaction_over, // and with it the lock is given back
    keeps_lock,       // it is out of that statement, and still blocks
    lock_released,    // in the same transaction
    request_gone,     // nobody waits for that any more
};
CancelOutcome outcome_of_cancel(const BlockerIdentity& blocker, RequestIdentity request);

} // namespace lockguard::pg
