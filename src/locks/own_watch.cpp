#include "locks/own_watch.h"

#include <algorithm>

#include "core/kept_waiting.h"

#include "locks/lock_snapshot.h"
#include "sessions/backend_status.h"

extern "C" {
#include "storage/proc.h"
}

namespace lockguard::pg {

namespace {

using core::kMillisecond;
using core::Microseconds;

constexpr Microseconds kFirstRepeat = 1'000 * kMillisecond;

/// Of the watch that goes on. Changed only while its timeout is disabled, or by its handler.
struct {
    TimeoutId timeout;
    bool registered;
    bool on;
    TimestampTz since;
    Microseconds max_stall;
    void (*strike)();
    TimestampTz next_strike; // not before
    Microseconds repeat;
    Microseconds longest; // that was seen
    StallReport report;
} watch;

/// Enters a waiter of a lock that we hold in a mode that conflicts. The caller holds the lock's
/// partition lock.
void note_waiter(const PGPROC* waiter, const LOCK* lock, TimestampTz now, StallReport* report) {
    BackendStateOnly state;
    if (!read_backend_state({compat::procno_of(waiter), waiter->pid}, &state) ||
        state.type != B_BACKEND)
        return;
    auto start = static_cast<TimestampTz>(
        pg_atomic_read_u64(const_cast<pg_atomic_uint64*>(&waiter->waitStart)));
    if (start == 0)
        start = now;
    const Microseconds waited = std::max<TimestampTz>(now - std::max(start, watch.since), 0);
    report->sessions++;
    if (report->mode != NoLock && waited <= report->longest)
        return;
    report->longest = waited;
    report->tag = lock->tag;
    report->mode = waiter->waitLockMode;
}

/// The caller holds the partition's lock.
void look_in_partition(int partition, TimestampTz now, StallReport* report) {
    Assert(LWLockHeldByMe(LockHashPartitionLockByIndex(partition)));
    for (PROCLOCK* own = compat::newest_own_proclock(MyProc, partition); own != nullptr;
         own = compat::older_own_proclock(MyProc, partition, own)) {
        LOCK* lock = own->tag.myLock;
        if (lock->waitMask == 0 || wait_kind_of(lock->tag) != core::WaitKind::data)
            continue;
        const LOCKMASK* conflicts = GetLockTagsMethodTable(&lock->tag)->conflictTab;
        for (PGPROC* waiter = compat::first_waiter(lock); waiter != nullptr;
             waiter = compat::next_waiter(lock, waiter)) {
            if ((conflicts[waiter->waitLockMode] & own->holdMask) != 0)
                note_waiter(waiter, lock, now, report);
        }
    }
}

StallReport look(TimestampTz now) {
    StallReport report = {};
    for (int i = 0; i < NUM_LOCK_PARTITIONS; i++) {
        if (compat::newest_own_proclock(MyProc, i) == nullptr)
            continue;
        LWLock* lock = LockHashPartitionLockByIndex(i);
        if (!LWLockConditionalAcquire(lock, LW_SHARED))
            continue;
        look_in_partition(i, now, &report);
        LWLockRelease(lock);
    }
    return report;
}

/// May this handler take an LWLock? The code that it has interrupted holds off interrupts as long
/// as it has one, or is about to; the server's own handler, which calls this one, does so once.
bool is_between_lwlocks() {
    return InterruptHoldoffCount <= 1 && CritSectionCount == 0;
}

void look_from_timer() {
    if (*const_cast<PGPROC* volatile*>(&MyProc) == nullptr || proc_exit_inprogress || !watch.on)
        return;
    const TimestampTz now = GetCurrentTimestamp();
    Microseconds next = core::kShortestLookPeriod;
    if (is_between_lwlocks()) {
        const StallReport report = look(now);
        watch.longest = std::max(watch.longest, report.longest);
        if (report.sessions > 0 && report.longest >= watch.max_stall && now >= watch.next_strike) {
            watch.report = report;
            watch.next_strike = now + watch.repeat;
            watch.repeat *= 2;
            watch.strike();
        }
        next = core::look_period(watch.max_stall);
        if (report.sessions > 0 && report.longest < watch.max_stall)
            next = std::min(next, watch.max_stall - report.longest);
    }
    // A handler may arm its own timeout again: it has been taken off the list by now.
    enable_timeout_at(watch.timeout, now + std::max(next, kMillisecond));
}

} // namespace

void start_own_watch(TimestampTz since, Microseconds max_stall, void (*strike)()) {
    Assert(!watch.on && max_stall > 0);
    if (!watch.registered) {
        watch.timeout = RegisterTimeout(USER_TIMEOUT, look_from_timer);
        watch.registered = true;
    }
    Assert(!get_timeout_active(watch.timeout));
    watch.since = since;
    watch.max_stall = max_stall;
    watch.strike = strike;
    watch.next_strike = 0;
    watch.longest = 0;
    watch.repeat = kFirstRepeat;
    watch.on = true;
    enable_timeout_at(watch.timeout,
                      GetCurrentTimestamp() + std::clamp(max_stall, core::kShortestLookPeriod,
                                                         core::kLongestLookPeriod));
}

void stop_own_watch() {
    if (!watch.on)
        return;
    watch.on = false;
    disable_timeout(watch.timeout, false);
}

Microseconds own_watch_longest() {
    return watch.longest;
}

StallReport own_watch_report() {
    return watch.report;
}

} // namespace lockguard::pg
