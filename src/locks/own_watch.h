// Where nobody else watches whom a guarded statement keeps waiting, because the library is not
// preloaded: a timer of the session's own looks who waits for the locks that it holds.
//
// It runs in a signal handler in the midst of the statement, so it sees less than the worker does:
// those who wait directly in the queue of a lock that this session holds, and not through others;
// and it looks only while the statement holds no LWLock, and takes those of the lock table only
// where it need not wait for them. What can't be seen at one time is seen at the next.
#pragma once

#include "core/time.h"

#include "boundary/compat.h"
#include "shmem/guarded_sessions.h"

namespace lockguard::pg {

/// Looks from now on, until stop_own_watch(). Once somebody has been kept waiting for `max_stall`
/// (µs, more than 0) it calls strike(), in the handler, and again at growing intervals as long as
/// that goes on. Does not nest. Raises FATAL where this backend has no timeout reason left.
///
/// \param since  nobody counts as kept waiting since before
void start_own_watch(TimestampTz since, core::Microseconds max_stall, void (*strike)());

/// Ends it. Never ereports: for error paths too.
void stop_own_watch();

/// The longest that anybody was seen to be kept waiting since start_own_watch(); 0: nobody.
core::Microseconds own_watch_longest();

/// What was seen before the latest strike. Not while it looks.
StallReport own_watch_report();

} // namespace lockguard::pg
