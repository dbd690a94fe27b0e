// The requests to cancel this process's statement that the server answers with one error: a round.
// It begins with the first request while none is pending (QueryCancelPending), and is over when
// that is not pending any more. By its number whoever has asked can tell whether he has been
// answered, and what is pending now may be of others, who have asked since; and by who else was in
// it, whose the error is.
//
// Changed with signals held off, so that those who ask in a signal handler find it whole. Requests
// that come by a signal are seen once sessions/interrupt_watch is in place; others are where the
// round before was known to be over.
#pragma once

#include <csignal>

#include "boundary/compat.h"

namespace lockguard::pg {

/// Why. Where several have asked in one round, the error is that of the last of these.
enum class CancelReason : uint8 {
    wait_limit, // the guard's limit on a wait
    preview,    // a preview is at its end
    refusal,    // the work is refused (ddl_heavy)
    order,      // the statement keeps others waiting for too long
    sent,       // a signal, of the user's as a rule
};

/// The signals whose handlers ask for a cancellation.
sigset_t cancelling_signals();

/// Runs body(), which must neither ereport nor take long, with those signals held off.
template <class Body>
void hold_signals(Body&& body) {
    const sigset_t signals = cancelling_signals();
    sigset_t before;
    sigprocmask(SIG_BLOCK, &signals, &before);
    body();
    sigprocmask(SIG_SETMASK, &before, nullptr);
}

// The rest is to be called with these signals held off. Nothing here ereports.

/// A request has come by a signal, and is about to be noted by the server.
///
/// \param by_timeout  of the server's, which leaves a note of its own
void note_sent_request(bool by_timeout);

/// This process asks for its own cancellation. Returns the number of the round. Once in each.
uint32 join_cancel_round(CancelReason reason);

/// Is what is pending that round?
bool is_pending_round(uint32 round);

/// Takes back what was asked for with join_cancel_round(), in the round that is pending. Where
/// nobody else is in it, nothing is pending any more.
void leave_cancel_round(CancelReason reason);

/// Was that round answered, after all others that were, and is the error of that reason?
bool is_latest_answer(uint32 round, CancelReason reason);

/// A lock timeout of the server's that has struck too late to end its wait will not end anything.
/// Nor will what is left of a timeout that struck while another request was being answered: the
/// server has told of it with that one.
void drop_late_timeouts();

} // namespace lockguard::pg
