// What is said of a guarded statement that could not have a lock: who was in the way, and what to
// do now.
#pragma once

#include "core/words/failed_waits.h"
#include "boundary/compat.h"
#include "locks/lock_culprits.h"
#include "locks/wait_sampler.h"

namespace lockguard::pg {

/// The statement, as of its beginning.
struct GuardedStatement {
    CommandTag tag;
    Reader reader; // it may run functions as somebody else
};

/// A wait that came to nothing.
struct FailedWait {
    AwaitedLock lock; // who came later than its started_at was not in the way
    core::Microseconds waited;
    std::uint32_t kept_waiting; // as in core::FailedWaitWords
    core::Microseconds kept_waiting_for;
    core::Microseconds stall = -1; // the longest that others could be kept waiting; -1: unknown
    int32 attempts = -1;           // likewise
    bool recorded = true;          // it is an event: nobody goes on to try again
};

/// DETAIL and HINT, as C strings. Null where there is no memory for them: the plain error is better
/// than none.
struct Explanation {
    const char* detail;
    const char* hint;
};

/// Says who is in the way, now, as far as the statement's user may know it. Needs a transaction.
/// Allocated in the current memory context. May ereport.
Explanation explain(const GuardedStatement& statement, const FailedWait& vain);

} // namespace lockguard::pg
