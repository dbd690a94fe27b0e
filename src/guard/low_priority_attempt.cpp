#include "guard/low_priority_attempt.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/settings.h"
#include "guard/heavy_guard.h"
#include "guard/lock_timeout_run.h"
#include "guard/lock_timeout_scope.h"
#include "guard/nesting.h"
#include "guard/older_snapshots.h"
#include "guard/stall_limit.h"
#include "locks/lock_holders.h"
#include "locks/wait_sampler.h"
#include "shmem/counters.h"

extern "C" {
#include "storage/lmgr.h"
#include "storage/sinval.h"
#include "tcop/pquery.h"
#include "utils/inval.h"
}

namespace lockguard::pg {

using core::kMillisecond;
using core::Microseconds;
using core::Timestamp;

namespace {

/// No more deadlocks than this are resolved by trying again.
constexpr int kMaxDeadlocks = 3;

void queue_for(const NeededLock& lock, Microseconds limit) {
    run_own_wait(
        limit, DeadlockCheck::yes,
        [](const void* argument) { take_in_queue(*static_cast<const NeededLock*>(argument)); },
        &lock);
}

/// Does everybody who holds the lock hold the other one as well? Then it is free once that one is
/// ours: who reads a table through its parent has locked both, and gives both back at his end; and
/// who comes later waits for the parent. Asked twice, because transactions begin and end between
/// the two questions.
bool is_given_back_with(const NeededLock& lock, const NeededLock& other) {
    for (int look = 0; look < 2; look++) {
        if (has_no_holders_besides(lock.tag, lock.mode, other.tag, other.mode))
            return true;
    }
    return false;
}

/// Also by a session outside of its transactions, as an advisory lock may be.
bool is_held_by_others(const NeededLock& lock) {
    return has_holders(lock.tag, lock.mode) ||
           !find_lock_holders(lock.tag, static_cast<core::LockMode>(lock.mode),
                              compat::procno_of(MyProc))
                .empty();
}

/// By the steady clock.
Timestamp steady_time_of(TimestampTz time) {
    return steady_now() - std::max<TimestampTz>(GetCurrentTimestamp() - time, 0);
}

} // namespace

// ---- The snapshot

void PortalSnapshot::release() {
    released_ |= release_portal_snapshot();
}

bool PortalSnapshot::restore() {
    if (!released_)
        return false;
    EnsurePortalSnapshotExists();
    released_ = false;
    return true;
}

// ---- One attempt

/// How far it came inside of the subtransaction. Lives in the frame that a longjmp returns to, and
/// is written by the calls below that frame: so it is as they left it.
struct Attempts::Progress {
    bool got_queued_lock;
    Timestamp got_all; // 0: not
    bool look_again;
    bool wait_was_cut; // and the statement went on without the lock
    bool lock_known;
    NeededLock lock; // that was not free
};

AttemptResult Attempts::attempt(const AttemptPlan& plan) {
    AttemptResult result = {};
    result.end = AttemptEnd::done;
    // pg_stat_statements sets it to 0 in the tree that it is given, so that it would see the first
    // attempt only.
    call_.planned->queryId = query_id_;
    // Looked up with a snapshot, as the statement itself does it: without one,
    // find_inheritance_children() has partitions as well whose detachment is pending.
    const bool restored = snapshot_.restore();
    // Names are looked up without a lock, which would have done this.
    AcceptInvalidationMessages();
    uint64 messages = SharedInvalidMessageCounter;
    LockTargets targets = find_lock_targets(call_.planned->utilityStmt);
    needed_.collect(targets);
    if (run_without_subtransaction(targets))
        return result;
    result.began = result.waited_since = steady_now();
    if (plan.queue_for != nullptr && !needed_.contains(*plan.queue_for)) {
        result.end = AttemptEnd::look_again;
        return result;
    }
    if (find_lock_in_the_way(plan, &result) || find_snapshot_in_the_way(plan, &result)) {
        if (restored) // the wait goes on without
            snapshot_.release();
        return result;
    }

    Progress progress = {};
    auto body = [&] { return lock_and_run(plan, messages, targets, &progress); };
    const InterruptMarks marks = mark_interrupts();
    auto expected = [this, &marks](const ErrorData* error) {
        return is_worth_another_try(error, marks);
    };
    CHECK_FOR_INTERRUPTS();
    forget_wait_limit();
    SubtransactionEnd end = run_in_subtransaction(body, expected);
    result.ended = steady_now();
    result.got_all = progress.got_all;
    if (end.kept) {
        Assert(!wait_limit_has_struck());
        return result;
    }
    if (end.error != nullptr) {
        learn_from(*end.error, progress, plan, &result);
        raise_swallowed_interrupts(marks);
    } else if (progress.wait_was_cut) {
        result.end = AttemptEnd::blocked;
        learn_limited_wait(&result);
        raise_swallowed_interrupts(marks);
    } else {
        result.end = progress.look_again ? AttemptEnd::look_again : AttemptEnd::blocked;
        result.lock_known = progress.lock_known;
        result.lock = progress.lock;
    }
    return result;
}

/// Is a lock that is known held by somebody else? Asked without the lock manager: from wal_level
/// replica on, an attempt at ACCESS EXCLUSIVE gives the transaction an id, which holds VACUUM back
/// for as long as the wait lasts; and a standby takes the lock as well, for its readers to wait.
bool Attempts::find_lock_in_the_way(const AttemptPlan& plan, AttemptResult* result) const {
    for (const NeededLock& lock : needed_.all()) {
        if (plan.queue_for != nullptr && is_same_lock(lock, *plan.queue_for))
            continue; // that is what the queue is for
        if (has_holders(lock.tag, lock.mode) &&
            (plan.queue_for == nullptr || !is_given_back_with(lock, *plan.queue_for))) {
            result->end = AttemptEnd::blocked;
            result->lock_known = true;
            result->lock = lock;
            return true;
        }
    }
    // One that can't be taken beforehand, such as a row's, but stands in the way still.
    if (plan.queue_for == nullptr && account_.is_lock_known() && !is_learnable(account_.lock()) &&
        is_held_by_others(account_.lock())) {
        result->end = AttemptEnd::blocked;
        result->lock_known = true;
        result->lock = account_.lock();
        return true;
    }
    return false;
}

/// For a statement that waits for older snapshots: inside it, others wait for what it has locked
/// meanwhile.
bool Attempts::find_snapshot_in_the_way(const AttemptPlan& plan, AttemptResult* result) const {
    VirtualTransactionId transaction;
    if (!waits_for_older_snapshots(call_.planned->utilityStmt) ||
        !find_older_snapshot(plan.soon, &transaction))
        return false;
    result->end = AttemptEnd::blocked;
    result->lock_known = true;
    SET_LOCKTAG_VIRTUALTRANSACTION(result->lock.tag, transaction);
    result->lock.mode = ShareLock;
    return true;
}

/// The inside of the subtransaction.
bool Attempts::lock_and_run(const AttemptPlan& plan, uint64 messages, const LockTargets& targets,
                            Progress* progress) {
    if (plan.queue_for != nullptr) {
        queue_for(*plan.queue_for, plan.burst);
        progress->got_queued_lock = true;
    }
    for (const NeededLock& lock : needed_.in_taking_order()) {
        if (!take_if_free(lock)) {
            progress->lock_known = true;
            progress->lock = lock;
            return false;
        }
    }
    if (messages != SharedInvalidMessageCounter && have_changed(targets)) {
        progress->look_again = true;
        return false;
    }
    progress->got_all = steady_now();
    account_.end_wait();
    if (account_.is_published())
        account_.publish(WaitPhase::running, -1);
    // What it waits for inside by design is waited for outside, where it has lasted.
    run_statement(waits_for_older_snapshots(call_.planned->utilityStmt)
                      ? std::min(plan.patience, plan.soon)
                      : plan.patience);
    // Some function has caught the error, and taken it for somebody's request.
    progress->wait_was_cut = wait_limit_has_struck();
    return !progress->wait_was_cut;
}

/// While the statement waits for a lock that was not known, others wait for those that it has.
void Attempts::run_statement(Microseconds patience) const {
    // The limit is for this process; lock_timeout is for parallel workers, which know of no other,
    // and it leaves the limit to come first.
    LockTimeoutScope scope;
    if (patience < kNoTimeLimit)
        scope.enter(std::max<int>(
            settings.ddl_lock_timeout,
            static_cast<int>(std::min<Microseconds>(2 * (patience / kMillisecond) + 10, INT_MAX))));
    const int shortest = foreign_lock_timeout_ > 0 && LockTimeout > 0
                             ? std::min(foreign_lock_timeout_, LockTimeout)
                             : std::max(foreign_lock_timeout_, LockTimeout);
    const bool sampled = shortest > 0;
    const WaitSampling sampling = sampled ? start_wait_sampling(shortest) : WaitSampling{};
    RunningStatement running;
    running.enter(Nesting::attempt);
    StallLimit limit;
    run_guarded(
        [this, patience, &limit] {
            limit.enter(account_.statement().tag, StallScope::attempt);
            start_wait_limit(patience);
            run_copy_watched(call_, account_.statement().tag);
        },
        [sampled, &sampling, &running, &limit] {
            stop_wait_limit();
            limit.leave();
            running.leave();
            if (sampled)
                stop_wait_sampling(sampling);
        });
    scope.leave();
}

bool Attempts::is_worth_another_try(const ErrorData* error, const InterruptMarks& marks) {
    if (error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
        return retry_deadlocks_ && ++deadlocks_ <= kMaxDeadlocks;
    if (is_cancel_request(error))
        return is_wait_limit(error);
    if (is_lock_timeout(error))
        return true;
    // After the limit has struck any other error may have come of it: a function has raised its
    // own. Or of a cancel request.
    return wait_limit_has_struck() && !is_statement_timeout(error) && !cancel_came(marks);
}

void Attempts::learn_from(const ErrorData& error, const Progress& progress, const AttemptPlan& plan,
                          AttemptResult* result) {
    if (error.sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED) {
        count(Counter::deadlocks);
        account_.record(EventKind::ddl_deadlock, "tried again");
        result->end = AttemptEnd::broke_a_ring;
        return;
    }
    result->end = AttemptEnd::blocked;
    if (progress.got_all == 0) { // it stood in the queue in vain
        result->lock_known = plan.queue_for != nullptr && !progress.got_queued_lock;
        if (result->lock_known)
            result->lock = *plan.queue_for;
        return;
    }
    result->waited_since = result->ended;
    AwaitedLock failed;
    if (wait_limit_has_struck())
        learn_limited_wait(result);
    else if (lock_of_timeout(&failed) && failed.lock_known)
        learn_wait(failed, result);
    else if (is_lock_timeout(&error)) // the setting itself may be gone with a block of a function
        foreign_lock_timeout_ =
            std::max(1, static_cast<int>((get_timeout_finish_time(LOCK_TIMEOUT) -
                                          get_timeout_start_time(LOCK_TIMEOUT)) /
                                         kMillisecond));
}

/// The guard has ended the wait, maybe because others were kept waiting.
void Attempts::learn_limited_wait(AttemptResult* result) {
    const EndedWait ended = ended_wait();
    AwaitedLock failed = lock_of_limit();
    if (!failed.lock_known)
        failed = ended.wait; // a parallel worker's: only who ended it knows
    result->kept_waiting = ended.kept_waiting;
    if (failed.lock_known)
        learn_wait(failed, result);
}

/// The lock that turned up inside the statement.
void Attempts::learn_wait(const AwaitedLock& failed, AttemptResult* result) {
    result->lock_known = true;
    result->lock = {failed.tag, failed.mode};
    result->waited_since = steady_time_of(failed.started_at);
    needed_.learn(result->lock);
}

bool Attempts::have_changed(const LockTargets& before) const {
    LockTargets now = find_lock_targets(call_.planned->utilityStmt);
    return !std::equal(before.locks.begin(), before.locks.end(), now.locks.begin(), now.locks.end(),
                       [](LockTarget left, LockTarget right) {
                           return left.relation == right.relation && left.mode == right.mode;
                       });
}

// ---- Without one

/// Where nobody else can know of the relations, nobody can be in the way. Where the transaction has
/// all locks that are known, giving back what the statement adds would give nothing back to those
/// who wait; and each subtransaction costs the rest of the transaction, and all snapshots of the
/// server: a lock that turns up inside is waited for as in ddl_mode lock_timeout.
bool Attempts::run_without_subtransaction(const LockTargets& targets) {
    std::span<const NeededLock> needed = needed_.all();
    bool all_held = !needed.empty() && std::ranges::all_of(needed, is_held);
    if (!targets.only_private && !all_held)
        return false;
    account_.end_wait();
    run_for_good(targets.only_temporary ? 0 : settings.ddl_lock_timeout, false, all_held);
    return true;
}

/// Once and for all, with that lock_timeout (ms; 0 for none).
///
/// \param limited  others can be kept waiting
void Attempts::run_for_good(int lock_timeout, bool queues, bool limited) {
    snapshot_.restore();
    RunningStatement running;
    running.enter(Nesting::final);
    run_guarded(
        [this, lock_timeout, queues, limited] {
            auto body = [this, queues, limited] {
                if (queues)
                    queue_for_targets();
                auto work = [this] { run_watched(call_, account_.statement().tag); };
                if (limited)
                    run_under_stall_limit(account_.statement(), work);
                else
                    work();
            };
            if (lock_timeout > 0)
                run_with_lock_timeout(account_.statement(), lock_timeout, body);
            else
                body();
        },
        [&running] { running.leave(); });
}

void Attempts::run_in_queue(int lock_timeout) {
    call_.planned->queryId = query_id_;
    run_for_good(lock_timeout, true, true);
}

/// Takes the locks that the statement's words ask for, as the statement itself would: so that the
/// end of the wait can be told from the work. A name that means something else by then is looked up
/// again, and what it meant before is given back.
void Attempts::queue_for_targets() {
    for (;;) {
        AcceptInvalidationMessages();
        uint64 messages = SharedInvalidMessageCounter;
        LockTargets targets = find_lock_targets(call_.planned->utilityStmt);
        for (const LockTarget& target : targets.locks)
            LockRelationOid(target.relation, target.mode);
        if (messages == SharedInvalidMessageCounter || !have_changed(targets))
            break;
        for (const LockTarget& target : targets.locks)
            UnlockRelationOid(target.relation, target.mode);
    }
    account_.end_wait();
}

} // namespace lockguard::pg
