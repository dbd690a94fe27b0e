// The requests to cancel this process's statement that the server answers with one error: a round.
// It begins with the first request while none is pending (QueryCancelPending), and is over when
// that is not pending any more. Whoever has asked can tell by its number whether he has been
// answered: what is pending now may be of others, who have asked since.
//
// Changed with signals held off, so that those who ask in a signal handler find it whole. Requests
// that come by a signal are seen once sessions/interrupt_watch is in place.
#pragma once

#include <csignal>

#include "boundary/compat.h"

namespace lockguard::pg {

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

// The rest is to be called with these signals held off, or in the handler of SIGINT, which holds
// them off. Nothing here ereports.

/// A request has come by a signal, and is about to be noted by the server.
///
/// \param by_timeout  of the server's, which leaves a note of its own
void note_sent_request(bool by_timeout);

/// This process asks for its own cancellation. Returns the number of the round. Once in each.
uint32 join_cancel_round();

/// Is what is pending that round?
bool is_pending_round(uint32 round);

/// Takes back what was asked for with join_cancel_round(), in the round that is pending. Where
/// nobody else is in it, nothing is pending any more.
void leave_cancel_round();

/// A lock timeout of the server's has struck too late to end its wait, and will not end anything.
void drop_late_lock_timeout();

} // namespace lockguard::pg
