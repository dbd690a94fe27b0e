#include "pg/wait_sampler.h"

namespace lockguard::pg {

namespace {

struct WaitSample {
    LOCKTAG tag;
    LOCKMODE mode;
    TimestampTz taken_at;
};

// The signal handler writes it, and only while this backend waits for a lock; so whoever reads it
// without waiting is not disturbed.
WaitSample sample;

// When the handler looked last, whether this backend waited then or not.
TimestampTz looked_at;

TimeoutId sampling_timeout;
bool sampling_timeout_registered;

// The lock timeout whose waits are to be seen, in µs; 0 while nobody samples. Changed only while
// the timeout is disabled.
int64 sampled_lock_timeout;

// A look while nobody waits costs next to nothing. Below deadlock_timeout (1 s as a rule), because
// each look wakes the waiter up, and once the deadlock check has run the lock manager writes the
// line of log_lock_waits anew at each awakening.
constexpr int64 kLongestPeriod = 100 * 1000;

/// Timers run in the order in which they are due. With a look due in every third of lock_timeout,
/// one that is due within the wait is served before lock_timeout is, however late the signal comes.
int64 sampling_period() {
    return Min(sampled_lock_timeout / 3, kLongestPeriod);
}

/// Runs in the SIGALRM handler. The lock that MyProc waits for can't go away under it: as long as
/// waitLock points there this process is in its queue or has just been granted it, and only this
/// very process, which stands still here, could give it up.
void take_sample() {
    const PGPROC* proc = *const_cast<PGPROC* volatile*>(&MyProc);
    if (proc == nullptr)
        return; // a FATAL error skips stop_wait_sampling(), and MyProc has gone before this process
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz next = now + sampling_period();
    looked_at = now;
    const LOCK* lock = *const_cast<LOCK* const volatile*>(&proc->waitLock);
    if (lock != nullptr) {
        sample.tag = lock->tag;
        sample.mode = proc->waitLockMode;
        sample.taken_at = now;
        // This wait has been seen. The next one begins later and so times out later than this one
        // would: a look at that time is in time. (The lock manager arms LOCK_TIMEOUT a moment after
        // it sets waitLock; until then its finish time is that of some other wait.)
        next = Min(Max(next, get_timeout_finish_time(LOCK_TIMEOUT)), now + sampled_lock_timeout);
    }
    // Not enable_timeout_every(): its unit of 1 ms is too coarse for a lock_timeout of 1 ms. A
    // handler may arm its own timeout again: it has been taken off the list by now.
    enable_timeout_at(sampling_timeout, next);
}

/// Sets the lock timeout whose waits are sampled from now on; 0 for none.
void sample_waits_of(int64 lock_timeout) {
    disable_timeout(sampling_timeout, false);
    sampled_lock_timeout = lock_timeout;
    if (lock_timeout != 0)
        enable_timeout_at(sampling_timeout, GetCurrentTimestamp() + sampling_period());
}

} // namespace

WaitSampling start_wait_sampling(int lock_timeout) {
    if (!sampling_timeout_registered) {
        sampling_timeout = RegisterTimeout(USER_TIMEOUT, take_sample);
        sampling_timeout_registered = true;
    }
    WaitSampling sampling = {sampled_lock_timeout};
    int64 wanted = static_cast<int64>(lock_timeout) * 1000;
    if (sampled_lock_timeout == 0 || wanted < sampled_lock_timeout)
        sample_waits_of(wanted);
    return sampling;
}

void stop_wait_sampling(WaitSampling sampling) {
    if (sampled_lock_timeout != sampling.outer_lock_timeout)
        sample_waits_of(sampling.outer_lock_timeout);
}

bool failed_lock_wait(FailedLockWait* wait) {
    // lock_timeout is armed anew for each wait. A look since then was a look at the wait that it
    // ended, for no other has begun.
    TimestampTz started_at = get_timeout_start_time(LOCK_TIMEOUT);
    if (started_at == 0 || looked_at < started_at)
        return false;
    wait->started_at = started_at;
    wait->lock_known = sample.taken_at >= started_at;
    wait->tag = sample.tag;
    wait->mode = sample.mode;
    return true;
}

bool is_lock_timeout(const ErrorData* error) {
    return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE && error->message_id != nullptr &&
           strcmp(error->message_id, "canceling statement due to lock timeout") == 0;
}

} // namespace lockguard::pg
