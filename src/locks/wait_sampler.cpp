#include "locks/wait_sampler.h"

#include <algorithm>

#include "sessions/cancel_round.h"
#include "sessions/own_cancel.h"
#include "shmem/segment.h"
#include "shmem/wait_decisions.h"

extern "C" {
#include "access/parallel.h"
}

namespace lockguard::pg {

namespace {

struct WaitSample {
    LOCKTAG tag;
    LOCKMODE mode;
    TimestampTz taken_at;
    TimestampTz wait_start;
};

// The signal handler writes it, and only while this backend waits for a lock; so whoever reads it
// without waiting is not disturbed.
WaitSample sample;

// When the handler looked last, whether this backend waited then or not ...
TimestampTz looked_at;
// ... and the PGPROC's waitStart where it did.
uint64 seen_wait_start;
bool seen_waiting;

// No wait that the handler has not seen can have begun before this.
TimestampTz unseen_since;

TimeoutId sampling_timeout;
bool sampling_timeout_registered;

// The lock timeout whose waits are to be seen, in µs; 0 while nobody samples. Changed only while
// the timeout is disabled.
int64 sampled_lock_timeout;

// The longest that a wait may last, in µs; 0 for no limit. Changed only while the timeout is
// disabled.
int64 limit;

// A limit also strikes where somebody has decided for this statement.
bool heeds_decisions;

// By which the limit ends a wait.
OwnCancel limit_cancel;

// That wait: the latest that it has struck, and the one before, which has ended. Written with
// signals held off.
WaitSample struck_sample;
WaitSample ended_sample;

// A look while nobody waits costs next to nothing. Below deadlock_timeout (1 s as a rule), because
// each look wakes the waiter up, and once the deadlock check has run the lock manager writes the
// line of log_lock_waits anew at each awakening.
constexpr int64 kLongestPeriod = 100 * 1000;

constexpr int64 kShortestPeriod = 1000;

// A decision is heard within that time. Not more often: each look wakes the waiter up.
constexpr int64 kDecisionPeriod = 1000 * 1000;

/// Timers run in the order in which they are due. With a look due in every third of lock_timeout,
/// one that is due within the wait is served before lock_timeout is, however late the signal comes.
/// The limit needs one look in its own length: seen once, a wait is looked at next when it is over.
int64 sampling_period() {
    int64 period = PG_INT32_MAX;
    if (sampled_lock_timeout != 0)
        period = std::min(sampled_lock_timeout / 3, kLongestPeriod);
    if (limit != 0)
        period = std::min(period, std::max(limit, kShortestPeriod));
    if (heeds_decisions)
        period = std::min(period, kDecisionPeriod);
    return period;
}

/// Since when the process has been in the wait in which it is now. waitStart may still be that of
/// an earlier wait, for a moment: a wait that the latest look has not seen began after it.
TimestampTz start_of_wait(const PGPROC* proc, TimestampTz now) {
    uint64 published = pg_atomic_read_u64(const_cast<pg_atomic_uint64*>(&proc->waitStart));
    auto start = static_cast<TimestampTz>(published);
    if (published == 0)
        start = now;
    if (!seen_waiting || seen_wait_start != published)
        start = std::max(start, unseen_since);
    else
        start = sample.wait_start;
    seen_wait_start = published;
    return std::min(start, now);
}

void strike(const WaitSample& wait) {
    hold_signals([&wait] {
        if (!ask_own_cancel(&limit_cancel))
            return;
        ended_sample = struck_sample;
        struck_sample = wait;
    });
}

/// Notes the wait that this process is in. In a signal handler: the lock that MyProc waits for
/// can't go away under it, for as long as waitLock points there this process is in its queue or has
/// just been granted it, and only this very process, which stands still here, could give it up.
void note_wait(const PGPROC* proc, const LOCK* lock, TimestampTz now) {
    sample.wait_start = start_of_wait(proc, now);
    sample.tag = lock->tag;
    sample.mode = proc->waitLockMode;
    sample.taken_at = now;
}

/// Runs in the SIGALRM handler.
void take_sample() {
    const PGPROC* proc = *const_cast<PGPROC* volatile*>(&MyProc);
    if (proc == nullptr)
        return; // a FATAL error skips stop_wait_sampling(), and MyProc has gone before this process
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz next = now + sampling_period();
    const LOCK* lock = *const_cast<LOCK* const volatile*>(&proc->waitLock);
    if (lock != nullptr) {
        note_wait(proc, lock, now);
        // This wait has been seen. The next one begins later and so times out later than this one
        // would: a look at that time is in time. (The lock manager arms LOCK_TIMEOUT a moment after
        // it sets waitLock; until then its finish time is that of some other wait.)
        if (sampled_lock_timeout != 0)
            next =
                Min(Max(next, get_timeout_finish_time(LOCK_TIMEOUT)), now + sampled_lock_timeout);
        if (limit != 0 &&
            (now >= sample.wait_start + limit || (heeds_decisions && is_decision_posted())))
            strike(sample);
        else if (limit != 0)
            next = std::min(next, sample.wait_start + limit);
        if (heeds_decisions)
            next = std::min(next, now + kDecisionPeriod);
    }
    seen_waiting = lock != nullptr;
    looked_at = now;
    unseen_since = now;
    // Not enable_timeout_every(): its unit of 1 ms is too coarse for a lock_timeout of 1 ms. A
    // handler may arm its own timeout again: it has been taken off the list by now.
    enable_timeout_at(sampling_timeout, next);
}

/// Sets what is looked for from now on; 0 for none.
void watch_waits(int64 lock_timeout, int64 new_limit) {
    disable_timeout(sampling_timeout, false);
    sampled_lock_timeout = lock_timeout;
    limit = new_limit;
    if (lock_timeout == 0 && new_limit == 0)
        return;
    unseen_since = GetCurrentTimestamp();
    seen_waiting = false;
    enable_timeout_at(sampling_timeout, unseen_since + sampling_period());
}

void register_timeout() {
    if (sampling_timeout_registered)
        return;
    sampling_timeout = RegisterTimeout(USER_TIMEOUT, take_sample);
    sampling_timeout_registered = true;
}

} // namespace

WaitSampling start_wait_sampling(int lock_timeout) {
    Assert(lock_timeout > 0);
    register_timeout();
    WaitSampling sampling = {sampled_lock_timeout};
    int64 wanted = static_cast<int64>(lock_timeout) * 1000;
    if (sampled_lock_timeout == 0 || wanted < sampled_lock_timeout)
        watch_waits(wanted, limit);
    return sampling;
}

void stop_wait_sampling(WaitSampling sampling) {
    if (sampled_lock_timeout != sampling.outer_lock_timeout)
        watch_waits(sampling.outer_lock_timeout, limit);
}

void start_wait_limit(core::Microseconds new_limit, bool heed_decisions) {
    Assert(limit == 0 && new_limit > 0);
    register_timeout();
    allow_own_cancel(&limit_cancel, CancelReason::wait_limit);
    heeds_decisions = heed_decisions && shared_state_available();
    watch_waits(sampled_lock_timeout, new_limit);
}

void stop_wait_limit() {
    if (limit == 0)
        return; // it has not begun
    heeds_decisions = false;
    watch_waits(sampled_lock_timeout, 0);
    // What comes too late to end its wait would end something else later.
    if (QueryCancelPending || get_timeout_indicator(LOCK_TIMEOUT, false))
        hold_signals(drop_late_timeouts);
    if (withdraw_own_cancel(&limit_cancel))
        struck_sample = ended_sample;
}

void strike_wait(TimestampTz wait_start) {
    const PGPROC* proc = *const_cast<PGPROC* volatile*>(&MyProc);
    if (limit == 0 || proc == nullptr)
        return;
    const LOCK* lock = *const_cast<LOCK* const volatile*>(&proc->waitLock);
    uint64 published = pg_atomic_read_u64(const_cast<pg_atomic_uint64*>(&proc->waitStart));
    if (lock == nullptr || published != static_cast<uint64>(wait_start))
        return;
    note_wait(proc, lock, GetCurrentTimestamp());
    strike(sample);
}

void strike_worker_wait() {
    if (limit != 0 && ParallelContextActive())
        strike({});
}

bool is_wait_limit(const ErrorData* error) {
    return is_own_cancel(limit_cancel, error);
}

void forget_wait_limit() {
    Assert(limit == 0);
    limit_cancel = {};
}

bool wait_limit_has_struck() {
    return has_cut(limit_cancel);
}

AwaitedLock lock_of_limit() {
    Assert(wait_limit_has_struck());
    return {struck_sample.wait_start, struck_sample.mode != NoLock, struck_sample.tag,
            struck_sample.mode};
}

bool lock_of_timeout(AwaitedLock* wait) {
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
    return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
           has_server_message(error, "canceling statement due to lock timeout");
}

} // namespace lockguard::pg
