// Which lock a session of ours waits for, seen from a timer of its own; and the guard's own limit
// on such waits.
//
// By the time that an error "canceling statement due to lock timeout" can be looked at, the lock
// manager has forgotten the wait. So a timer of this backend notes, a few times in the course of
// any wait that is long enough to time out, which lock that is.
//
// The limit is not lock_timeout: it sees the wait that it ends, so the lock is known; it ends
// nothing but a wait, so a lock that was granted while this process did not run stays granted; and
// it sends no signal, so what others send is not mistaken for it (see sessions/interrupt_watch).
#pragma once

#include "core/time.h"
#include "boundary/compat.h"
#include "sessions/interrupt_watch.h"

namespace lockguard::pg {

/// The lock that a wait was for, which ended in a lock timeout or at the guard's limit, or goes on.
struct AwaitedLock {
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

/// From now on each wait for a heavyweight lock ends with an error once it has lasted for `limit`
/// (µs, more than 0); see is_wait_limit(). Limits don't nest. Serves what is pending now, and so
/// may ereport; raises FATAL as start_wait_sampling().
///
/// \param heed_decisions  it ends before that, within a second, where somebody decides for the
///                        statement (shmem/wait_decisions)
void start_wait_limit(core::Microseconds limit, bool heed_decisions = false);

/// For start_wait_limit(): no time of its own, but strike_wait() ends the waits.
inline constexpr core::Microseconds kNoTimeLimit = INT64_MAX / 4;

/// Ends the wait for a heavyweight lock in which this process is, as if the limit had struck; only
/// the one that began then (PGPROC.waitStart), and only while a limit is in force. Runs in a signal
/// handler.
void strike_wait(TimestampTz wait_start);

/// The same for the wait of a parallel worker, of which lock_of_limit() knows nothing.
void strike_worker_wait();

/// Ends it. Where the limit has struck, or lock_timeout, and that has ended no wait because the
/// lock was granted in the same moment, it never will. Never ereports: for error paths too.
void stop_wait_limit();

/// Is this error the guard's limit, and nothing else? It looks like the server's "canceling
/// statement due to user request". To be asked after stop_wait_limit(), and before any check for
/// interrupts after the error was raised. Never ereports.
bool is_wait_limit(const ErrorData* error);

/// Forgets that the limit has ended a wait. Never ereports.
void forget_wait_limit();

/// Has the limit ended a wait since forget_wait_limit() or start_wait_limit(), whatever has become
/// of its error: a function may have caught it, or raised another in its place. To be asked after
/// stop_wait_limit(). Never ereports.
bool wait_limit_has_struck();

/// The wait that the guard's limit has ended, the latest of them; its lock is not known where that
/// was a parallel worker's. To be asked where wait_limit_has_struck() is true.
AwaitedLock lock_of_limit();

/// The wait that ended in the latest lock timeout of this backend. To be asked right after that
/// error. Returns false where nobody looked during that wait.
bool lock_of_timeout(AwaitedLock* wait);

/// Is this the lock manager's own "canceling statement due to lock timeout", of this process or of
/// a parallel worker? The ids of messages are not translated; a worker's message comes without its
/// id, in the language of this session. NOWAIT, and an error that came from elsewhere, such as
/// through dblink, are worded differently.
bool is_lock_timeout(const ErrorData* error);

} // namespace lockguard::pg
