// What the worker does about a blocker that a look has found, and what it says of that: in the log,
// in the record of events, to the counters.
#pragma once

#include "worker/blocker_history.h"
#include "worker/blocker_look.h"

namespace lockguard::features {

/// One at a time: the check, the signal, the line in the log. A session that has been sent a signal
/// and is still there, or in that statement, has not got round to it yet: it is neither signaled
/// nor logged again.
void deal_with(pg::BlockerLook* look, const pg::BlockerCase& c, History* history);

/// Says whom the policy spares, once for each state of the session.
void spare(pg::BlockerLook* look, const pg::BlockerCase& c, History* history);

} // namespace lockguard::features
