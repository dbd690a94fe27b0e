#include "guard/low_priority_account.h"

#include <algorithm>

#include "boundary/clock.h"
#include "locks/lock_culprits.h"
#include "sessions/object_names.h"
#include "shmem/counters.h"
#include "shmem/wait_decisions.h"
#include "shmem/worker_state.h"

extern "C" {
#include "storage/lmgr.h"
}

namespace lockguard::pg {

using core::kMillisecond;
using core::Microseconds;
using core::Timestamp;

namespace {

const char* mode_name(const NeededLock& lock) {
    return GetLockmodeName(lock.tag.locktag_lockmethodid, lock.mode);
}

} // namespace

WaitAccount::WaitAccount(CommandTag tag, const core::WaitPolicy& policy)
    : statement_{tag, current_reader()}, policy_(policy), started_(steady_now()),
      started_at_(GetCurrentTimestamp()) {
    Assert(!shows_low_priority_wait()); // whoever was here before has withdrawn it
}

Microseconds WaitAccount::waited() const {
    return earlier_waits_ + (waiting_since_ == 0 ? 0 : steady_now() - waiting_since_);
}

void WaitAccount::set_lock(const NeededLock& lock) {
    bool same = lock_known_ && memcmp(&lock_.tag, &lock.tag, sizeof(LOCKTAG)) == 0 &&
                lock_.mode == lock.mode;
    if (!same)
        lock_since_ = GetCurrentTimestamp();
    lock_ = lock;
    lock_known_ = true;
}

void WaitAccount::begin_to_wait(Timestamp since) {
    if (waiting_since_ != 0)
        return;
    waiting_since_ = since;
    listen_for_decisions();
    if (has_waited_)
        return; // told again after deadlock_timeout
    has_waited_ = true;
    count(Counter::statements_waited);
    publish(WaitPhase::trying, -1);
    wake_worker();
    record(EventKind::ddl_waited, nullptr);
    told_ = true;
}

void WaitAccount::enter_queue() {
    queued_since_ = steady_now();
}

void WaitAccount::end_wait() {
    if (waiting_since_ == 0)
        return;
    const bool queued = queued_since_ != 0;
    count_span();
    if (logged_)
        log_end(queued);
    if (told_)
        record(EventKind::ddl_acquired, nullptr);
    logged_ = false;
    told_ = false;
}

void WaitAccount::note_waiting(const AwaitedHolders& holders) {
    against_wraparound_ = holders.against_wraparound;
    if (!lock_known_ || steady_now() - waiting_since_ < policy_.limits.deadlock_timeout)
        return;
    if (!logged_ && log_lock_waits)
        log_wait(holders);
    if (!told_)
        record(EventKind::ddl_waited, nullptr);
    told_ = true;
}

void WaitAccount::close() {
    count_span();
    if (has_waited_)
        note_longest(Longest::wait, earlier_waits_);
    withdraw();
    Assert(!shows_low_priority_wait()); // whichever way led here
}

/// The wait that goes on now is over, or it is not to be counted twice.
void WaitAccount::count_span() {
    if (waiting_since_ == 0)
        return;
    stop_listening();
    if (queued_since_ != 0) {
        queued_for_ = std::max<Microseconds>(steady_now() - queued_since_, 0);
        queued_since_ = 0;
        count(Counter::bursts);
        note_stall(queued_for_);
    }
    Microseconds span = std::max<Microseconds>(steady_now() - waiting_since_, 0);
    count(Counter::wait_time, static_cast<uint64>(span));
    earlier_waits_ += span;
    waiting_since_ = 0;
}

void WaitAccount::note_stall(Microseconds duration) {
    if (duration <= 0)
        return;
    count(Counter::stall_time, static_cast<uint64>(duration));
    note_longest(Longest::stall, duration);
}

DdlEvent WaitAccount::new_event(EventKind kind, const char* reason) const {
    DdlEvent event = {};
    event.kind = kind;
    event.command = GetCommandTagName(statement_.tag);
    event.lock_known = lock_known_;
    event.tag = lock_.tag;
    event.mode = lock_.mode;
    event.waited = waited();
    event.stall = std::max(policy_.longest_stay, queued_for_);
    event.attempts = static_cast<int32>(policy_.attempts);
    event.reason = reason;
    return event;
}

void WaitAccount::record(EventKind kind, const char* reason) const {
    DdlEvent event = new_event(kind, reason);
    const char* object = nullptr;
    if (lock_known_) {
        NameLookup lookup = open_name_lookup();
        AwaitedLock lock = {GetCurrentTimestamp(), true, lock_.tag, lock_.mode};
        object = locked_object_text(lock_.tag, lookup);
        if (kind == EventKind::ddl_waited)
            event.culprits = find_lock_culprits(lock, statement_.reader, lookup);
        close_name_lookup(lookup);
    }
    record_ddl_event(event, object);
}

void WaitAccount::record_termination(int pid, const char* detail) const {
    core::Culprit culprit = {};
    culprit.pid = pid;
    DdlEvent event = new_event(EventKind::ddl_blocker_terminated, detail);
    event.culprits = {&culprit, 1};
    NameLookup lookup = open_name_lookup();
    const char* object = locked_object_text(lock_.tag, lookup);
    close_name_lookup(lookup);
    record_ddl_event(event, object);
}

// ---- Being seen

void WaitAccount::publish(WaitPhase phase, Microseconds duration) {
    shown_ = {};
    shown_.pid = MyProcPid;
    shown_.lxid = compat::lxid_of(MyProc);
    shown_.database = MyDatabaseId;
    shown_.role = MyProc->roleId;
    shown_.command = statement_.tag;
    shown_.lock_known = lock_known_;
    if (lock_known_) {
        shown_.tag = lock_.tag;
        shown_.mode = lock_.mode;
        shown_.lock_since = lock_since_;
    }
    shown_.phase = phase;
    shown_.against_wraparound = against_wraparound_;
    shown_.attempts = policy_.attempts;
    shown_.started_at = started_at_;
    if (policy_.limits.deadline != core::kUnknownTime)
        shown_.deadline = started_at_ + (policy_.limits.deadline - started_);
    if (duration >= 0)
        shown_.phase_end = GetCurrentTimestamp() + duration;
    shown_.longest_stall = policy_.longest_stay;
    publish_low_priority_wait(shown_);
    published_ = true;
}

void WaitAccount::publish_between_transactions() {
    shown_.lxid = InvalidLocalTransactionId;
    publish_low_priority_wait(shown_);
}

void WaitAccount::withdraw() {
    stop_listening();
    if (published_)
        withdraw_low_priority_wait();
    published_ = false;
}

/// As log_lock_waits has it for a wait in a queue.
void WaitAccount::log_wait(const AwaitedHolders& holders) {
    logged_ = true;
    StringInfoData lock;
    StringInfoData pids;
    initStringInfo(&lock);
    initStringInfo(&pids);
    DescribeLockTag(&lock, &lock_.tag);
    for (const AwaitedHolder& holder : holders.holders)
        appendStringInfo(&pids, "%s%d", pids.len == 0 ? "" : ", ", holder.pid);
    Microseconds so_far = waited();
    ereport(LOG, (errmsg("process %d still waits at low priority for %s on %s after %lld.%03d ms",
                         MyProcPid, mode_name(lock_), lock.data,
                         static_cast<long long>(so_far / kMillisecond),
                         static_cast<int>(so_far % kMillisecond)),
                  pids.len == 0 ? 0
                                : errdetail_log_plural("Process holding the lock: %s.",
                                                       "Processes holding the lock: %s.",
                                                       holders.holders.size(), pids.data)));
}

void WaitAccount::log_end(bool queued) {
    StringInfoData lock;
    initStringInfo(&lock);
    DescribeLockTag(&lock, &lock_.tag);
    Microseconds so_far = waited();
    ereport(LOG, (errmsg("process %d acquired %s on %s %s after %lld.%03d ms", MyProcPid,
                         mode_name(lock_), lock.data, queued ? "in its queue" : "at low priority",
                         static_cast<long long>(so_far / kMillisecond),
                         static_cast<int>(so_far % kMillisecond))));
}

} // namespace lockguard::pg
