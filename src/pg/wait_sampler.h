// Which lock a session of ours waited for when lock_timeout struck.
//
// By the time that an error "canceling statement due to lock timeout" can be looked at, the lock
// manager has forgotten the wait. So a timer of this backend notes, a few times in the course of
// any wait that is long enough to time out, which lock that is.
#pragma once

#include "pg/compat.h"

namespace lockguard::pg {

/// A wait that ended in a lock timeout.
struct FailedLockWait {
    TimestampTz started_at;
    bool lock_known; // false where the lock was granted in the very moment in which lock_timeout
                     // struck (a late signal finds both): nobody is in the way any more
    LOCKTAG tag;     // if lock_known
    LOCKMODE mode;   // if lock_known
};

/// What stop_wait_sampling() goes back to: sampling nests.
struct WaitSampling {
    int64 outer_lock_timeout; // µs, 0 where there was none
};

/// Starts to note the locks that this backend waits for, often enough to see every wait that lasts
/// as long as `lock_timeout` (ms, more than 0). Raises FATAL where this backend has no timeout
/// reason left (other extensions have taken them all).
WaitSampling start_wait_sampling(int lock_timeout);

/// Ends what the matching start_wait_sampling() began. Never ereports: for error paths too.
void stop_wait_sampling(WaitSampling sampling);

/// The wait that ended in the latest lock timeout of this backend. To be asked right after that
/// error. Returns false where nobody looked during that wait.
bool failed_lock_wait(FailedLockWait* wait);

/// Is this the lock manager's own "canceling statement due to lock timeout"? The ids of messages
/// are not translated. NOWAIT, and an error that came from elsewhere, such as through dblink, are
/// worded differently.
bool is_lock_timeout(const ErrorData* error);

} // namespace lockguard::pg
