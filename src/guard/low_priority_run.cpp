// The loop: look up which locks are needed; if they are free, take them all and run the statement
// in a subtransaction (guard/low_priority_attempt); else give everything back, and do what
// core/wait_policy says: wait for those who hold the lock, back off, queue for a moment, or give
// up.
//
// A lock that turns up inside the statement is waited for there, as long as nobody is kept waiting
// by that for too long; only then the attempt ends, and from then on it is one of the locks that
// are known, and waited for like the first.
//
// (Longer than other files: one loop, and each of the ways out of it.)
#include "guard/low_priority_run.h"

#include "core/wait_policy.h"
#include "core/wait_rhythm.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/settings.h"
#include "guard/low_priority_account.h"
#include "guard/low_priority_attempt.h"
#include "guard/low_priority_attention.h"
#include "guard/low_priority_eviction.h"
#include "guard/low_priority_failure.h"
#include "guard/low_priority_renewal.h"
#include "guard/low_priority_wait.h"
#include "guard/stall_limit.h"
#include "guard/wait_decision.h"
#include "guard/wait_notice.h"
#include "locks/lock_holders.h"
#include "shmem/counters.h"
#include "shmem/wait_board.h"

extern "C" {
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
}

namespace lockguard::pg {

namespace {

using core::kMillisecond;
using core::Microseconds;
using core::Timestamp;

/// Whole milliseconds, at least 1, as a timer wants them.
int milliseconds(Microseconds duration) {
    Microseconds rounded = (duration + kMillisecond - 1) / kMillisecond;
    return static_cast<int>(std::clamp<Microseconds>(rounded, 1, INT_MAX));
}

/// One statement's wait. Plain data, and pointers into memory contexts.
class LowPriorityRun {
  public:
    LowPriorityRun(const UtilityCall& call, CommandTag tag)
        : account_(tag, policy_), caller_context_(CurrentMemoryContext),
          // Only then can it have locks before it begins (a lock of the session itself aside).
          in_transaction_(call.context != PROCESS_UTILITY_TOPLEVEL || IsTransactionBlock() ||
                          IsSubTransaction() || compat::is_pipelining() ||
                          TransactionIdIsValid(GetTopTransactionIdIfAny())),
          needed_(CurrentMemoryContext),
          attempts_(call, needed_, account_, snapshot_, !in_transaction_),
          attention_(account_, rhythm_) {
        core::WaitLimits limits = {};
        limits.max_burst = max_kept_waiting_;
        limits.deadlock_timeout = DeadlockTimeout * kMillisecond;
        limits.deadline = core::kUnknownTime;
        int patience = settings.ddl_max_wait;
        if (LockTimeout > 0 && lock_timeout_bounds_stays_) {
            limits.max_burst = std::min(limits.max_burst, LockTimeout * kMillisecond);
        } else if (LockTimeout > 0 && (patience == 0 || LockTimeout <= patience)) {
            patience = LockTimeout;
            own_limit_ = true;
        }
        if (patience > 0)
            limits.deadline = account_.started() + patience * kMillisecond;
        rhythm_ = core::start_rhythm(limits, in_transaction_, account_.started());
        policy_ = core::start_wait(limits, static_cast<std::uint64_t>(MyProcPid) ^
                                               static_cast<std::uint64_t>(account_.started_at()));
    }

    void run() {
        round_context_ =
            AllocSetContextCreate(caller_context_, "pg_lockguard attempt", ALLOCSET_DEFAULT_SIZES);
        while (!try_once()) {
        }
        if (!account_.has_waited())
            count(Counter::statements_immediate);
        MemoryContextDelete(round_context_);
    }

    /// Shows nothing any more, and counts what there is to count. Never ereports.
    void close() { account_.close(); }

    const GuardedStatement& statement() const { return account_.statement(); }

    /// After a deadlock, for which the statement is not tried again. May ereport.
    void tell_deadlock() const {
        count(Counter::deadlocks);
        account_.record(EventKind::ddl_deadlock, "the statement has failed");
    }

    /// Adds to an error that ended the wait from outside (a cancel request, statement_timeout) what
    /// the guard's own says: which lock it was, and who is in the way. May ereport.
    void explain_end_of_wait(ErrorData* error) const {
        if (!account_.is_waiting() || error->detail != nullptr)
            return;
        const AwaitedLock lock = {GetCurrentTimestamp(), account_.is_lock_known(),
                                  account_.lock().tag, account_.lock().mode};
        const FailedWait wait = {lock,
                                 account_.waited(),
                                 attention_.kept_waiting(),
                                 attention_.kept_waiting_for(),
                                 policy_.longest_stay,
                                 static_cast<int32>(policy_.attempts),
                                 false};
        const Explanation explanation = explain(account_.statement(), wait);
        error->detail = const_cast<char*>(explanation.detail);
        error->hint = const_cast<char*>(explanation.hint);
    }

  private:
    // ---- One round

    /// Tries, and if that comes to nothing, waits until another try is worth while. Returns true
    /// when the statement has run.
    bool try_once() {
        CHECK_FOR_INTERRUPTS();
        MemoryContextReset(round_context_);
        MemoryContextSwitchTo(round_context_);
        AttemptEnd end = attempt(0);
        bool done = end == AttemptEnd::done || (end != AttemptEnd::look_again && wait(end));
        MemoryContextSwitchTo(caller_context_);
        return done;
    }

    /// Does what the policy says after an attempt that came to nothing. Returns true when the
    /// statement has run after all.
    bool wait(AttemptEnd end) {
        snapshot_.release();
        AwaitedHolders holders = {};
        if (end == AttemptEnd::blocked && account_.is_lock_known())
            holders = look_at_holders(account_.lock().tag, account_.lock().mode);
        if (end == AttemptEnd::blocked && goes_before_queue(holders)) {
            const Microseconds burst = std::max(core::burst_length(policy_), kMillisecond);
            account_.publish(WaitPhase::queued, burst);
            end = attempt(burst);
            if (end != AttemptEnd::blocked || has_queued_)
                return end == AttemptEnd::done;
        }
        attend(holders);
        if (is_decided())
            return act_on_decision();

        core::WaitDecision decision = core::decide(policy_, holders.present, steady_now());
        switch (decision.step) {
        case core::WaitStep::wait_for_holders:
            account_.publish(WaitPhase::waiting, decision.duration);
            wait_for(holders, decision.duration);
            break;
        case core::WaitStep::back_off:
            account_.publish(WaitPhase::backing_off, decision.duration);
            back_off(decision.duration);
            break;
        case core::WaitStep::queue:
            if (needed_.contains(account_.lock())) {
                account_.publish(WaitPhase::queued, decision.duration);
                end = attempt(decision.duration);
                if (end != AttemptEnd::blocked || has_queued_)
                    return end == AttemptEnd::done;
                // Another lock is in the way as well: it would stand there in vain.
                account_.publish(WaitPhase::waiting, decision.duration);
                wait_for(holders, decision.duration);
                break;
            }
            // No lock to queue for: only the statement itself takes it.
            account_.publish(WaitPhase::waiting, decision.duration);
            wait_for(holders, decision.duration);
            core::burst_ended(policy_, steady_now(), 0, false);
            break;
        case core::WaitStep::give_up:
            return give_up();
        }
        rest();
        if (is_decided())
            return act_on_decision();
        renew_transaction();
        account_.publish(WaitPhase::trying, -1);
        return false;
    }

    /// Do those alone keep the statement from its lock who wait for another mode of it that this
    /// very transaction has? The lock manager puts whoever has that before them: there the lock is
    /// granted at once, and nowhere else as long as they wait.
    bool goes_before_queue(const AwaitedHolders& holders) const {
        if (!in_transaction_ || holders.present.holders > 0 || !account_.is_lock_known() ||
            !needed_.contains(account_.lock()) || steady_now() < policy_.rest_end)
            return false;
        for (LOCKMODE mode = AccessShareLock; mode <= MaxLockMode; mode++) {
            if (compat::holds_lock(account_.lock().tag, mode))
                return true;
        }
        return false;
    }

    void back_off(Microseconds duration) {
        sleep_a_little(milliseconds(std::min(duration, longest_sleep())));
        check_client();
    }

    /// Others have waited while the statement ran in vain. What it waited for is known now, and
    /// looked at before it runs again; but not every lock can be.
    void rest() {
        if (account_.is_lock_known() && is_learnable(account_.lock()))
            return;
        for (Microseconds left;
             (left = core::rest_left(rhythm_, steady_now())) > 0 && !is_decided();) {
            account_.publish(WaitPhase::backing_off, left);
            back_off(left);
            attend({});
            renew_transaction();
        }
    }

    /// Sleeps on the holders, one after the other, until all have ended or the time is over.
    void wait_for(const AwaitedHolders& holders, Microseconds duration) {
        Timestamp end = steady_now() + duration;
        for (const AwaitedHolder& holder : holders.holders) {
            for (;;) {
                Microseconds left = end - steady_now();
                if (left <= 0)
                    return;
                left = std::min(left, longest_sleep());
                bool ended = sleep_until_end(holder.vxid, left, attention_.check_for_deadlock());
                check_client();
                if (ended) {
                    core::holder_ended(policy_, age(holder));
                    break;
                }
                attend(holders);
                // Its holder may give it back before his end (ROLLBACK TO SAVEPOINT): nobody tells.
                if (is_decided() || (account_.is_lock_known() &&
                                     seems_free(account_.lock().tag, account_.lock().mode)))
                    return;
                if (renew_transaction())
                    account_.publish(WaitPhase::waiting,
                                     std::max<Microseconds>(end - steady_now(), 0));
            }
        }
    }

    /// The longest sleep on one holder, before there is something else to look after.
    Microseconds longest_sleep() const {
        return core::longest_sleep(rhythm_, steady_now(), account_.waited(),
                                   notices_.until_due(account_));
    }

    /// Looks after all else while the statement waits for these holders; last of all, whether
    /// somebody has decided for it.
    void attend(const AwaitedHolders& holders) {
        WaitFailure failure = {};
        if (!attention_.look_after(holders, &failure))
            fail(failure);
        notices_.attend(account_, outlook());
        if (!is_decided())
            take_decision(&decision_);
    }

    /// Where it is time to, and can be done (guard/low_priority_renewal). Returns whether it
    /// has: what it shows is to be published again.
    bool renew_transaction() {
        if (!core::is_time_to_renew(rhythm_, steady_now()) ||
            !can_renew_transaction(caller_context_))
            return false;
        account_.publish_between_transactions();
        pg::renew_transaction();
        MemoryContextSwitchTo(round_context_);
        core::renewed(rhythm_, steady_now());
        return true;
    }

    // ---- One attempt

    /// With a burst of 0 the locks are taken if they are free; else the lock that was not to be had
    /// is waited for in its queue, for that long.
    AttemptEnd attempt(Microseconds burst) {
        NeededLock awaited = account_.lock();
        AttemptResult result =
            attempts_.attempt({burst > 0 ? &awaited : nullptr, burst, patience_inside(),
                               std::max(core::burst_length(policy_), kMillisecond)});
        report_to_policy(burst, result);
        if (result.end == AttemptEnd::done || result.end == AttemptEnd::look_again)
            return result.end;
        const bool other_lock =
            result.lock_known && !(account_.is_lock_known() && is_same_lock(result.lock, awaited));
        if (result.lock_known)
            account_.set_lock(result.lock);
        else if (result.end == AttemptEnd::blocked)
            account_.forget_lock();
        account_.begin_to_wait(account_.has_waited() ? result.waited_since : account_.started());
        if (other_lock) {
            // Whoever looks for rings must see it, and it may have closed one.
            account_.publish(WaitPhase::trying, -1);
            core::waits_for_another_lock(rhythm_, steady_now());
        }
        return result.end;
    }

    /// How long a lock that turns up inside the statement is waited for. Where somebody watches, he
    /// ends the wait once others have been kept waiting for too long by it.
    Microseconds patience_inside() const {
        Microseconds patience = waits_are_watched() ? kNoTimeLimit : policy_.limits.max_burst;
        if (policy_.limits.deadline != core::kUnknownTime)
            patience = std::min(patience, policy_.limits.deadline - steady_now());
        return std::max(patience, kMillisecond);
    }

    void report_to_policy(Microseconds burst, const AttemptResult& result) {
        has_queued_ = burst > 0 && result.ended != 0;
        if (result.ended == 0)
            return; // it did not even begin
        if (burst > 0) {
            bool got_locks = result.got_all != 0;
            Microseconds stay = (got_locks ? result.got_all : result.ended) - result.began;
            core::burst_ended(policy_, result.began + stay, stay, got_locks);
            count(Counter::bursts);
            WaitAccount::note_stall(stay);
        }
        if (result.got_all == 0 || result.end == AttemptEnd::done)
            return;
        // What it did with its locks was work, and its limits are on waiting.
        if (policy_.limits.deadline != core::kUnknownTime)
            policy_.limits.deadline +=
                std::max<Microseconds>(result.waited_since - result.got_all, 0);
        rhythm_.limits.deadline = policy_.limits.deadline;
        // Where nobody knows what it waited for, the next attempt might end in the same way. It has
        // not waited for all that time: the work has been done before.
        if (result.end == AttemptEnd::blocked && !result.lock_known)
            core::ran_in_vain(rhythm_, result.ended,
                              std::min(result.ended - result.got_all, policy_.limits.max_burst));
        // Whoever came while the statement had its locks, and lost them again, waited for nothing.
        if (result.kept_waiting <= 0)
            return;
        core::kept_waiting(policy_, result.ended, result.kept_waiting);
        WaitAccount::note_stall(result.kept_waiting);
        core::ran_in_vain(rhythm_, result.ended, result.kept_waiting);
    }

    // ---- What somebody else decides

    bool is_decided() const { return decision_.decision != Decision::none; }

    /// Returns true when the statement has run.
    bool act_on_decision() {
        const DecisionRequest request = decision_;
        decision_ = {};
        switch (request.decision) {
        case Decision::none:
            break;
        case Decision::give_up:
            answer_decision(DecisionAnswer::done, nullptr);
            fail({.decided = record_decision(request, nullptr, account_)});
        case Decision::queue:
            answer_decision(DecisionAnswer::done, nullptr);
            record_decision(request, nullptr, account_);
            run_in_queue();
            return true;
        case Decision::terminate:
            return end_holders_as_decided(request);
        }
        return false;
    }

    bool end_holders_as_decided(const DecisionRequest& request) {
        account_.publish(WaitPhase::terminating, -1);
        bool right_is_lacking = false;
        const char* reason = "it is not known which lock is not to be had";
        if (account_.is_lock_known())
            reason = end_holders(locks_in_the_way(), account_, request.rights, request.pid,
                                 &right_is_lacking);
        DecisionAnswer answer = DecisionAnswer::done;
        if (reason != nullptr)
            answer = right_is_lacking ? DecisionAnswer::not_permitted : DecisionAnswer::not_done;
        answer_decision(answer, reason);
        record_decision(request, reason, account_);
        return reason == nullptr && run_after_eviction();
    }

    // ---- The end of patience

    /// What is to come, by what is known now.
    WaitOutlook outlook() const {
        core::PatienceEnd end = core::PatienceEnd::failure;
        if (!own_limit_ && settings.on_timeout() == DdlOnTimeout::queue)
            end = core::PatienceEnd::queue;
        else if (!own_limit_ && settings.on_timeout() == DdlOnTimeout::terminate)
            end = core::PatienceEnd::termination;
        return {policy_.limits.deadline, end, attention_.kept_waiting(),
                attention_.kept_waiting_for()};
    }

    bool give_up() {
        WaitFailure failure = {};
        if (!own_limit_) {
            switch (settings.on_timeout()) {
            case DdlOnTimeout::error:
                break;
            case DdlOnTimeout::queue:
                run_in_queue();
                return true;
            case DdlOnTimeout::terminate:
                if (end_holders_and_run(&failure))
                    return true;
                break;
            }
        }
        fail(failure);
    }

    [[noreturn]] void fail(const WaitFailure& failure) {
        MemoryContextSwitchTo(caller_context_);
        raise_wait_failure(account_, policy_, own_limit_, failure);
    }

    /// As plain PostgreSQL would have done it, with what is left of the session's lock_timeout, or
    /// with all of it for each stay.
    void run_in_queue() {
        notices_.tell_queue(account_, outlook());
        account_.withdraw();
        account_.enter_queue();
        MemoryContextSwitchTo(caller_context_);
        int lock_timeout = LockTimeout;
        if (LockTimeout > 0 && !lock_timeout_bounds_stays_)
            lock_timeout = milliseconds(LockTimeout * kMillisecond - account_.waited());
        attempts_.run_in_queue(lock_timeout);
    }

    /// Ends who holds the locks, and takes its place in the queue, so that newcomers wait, for as
    /// long as any statement may stand there. Returns false where that does not succeed.
    bool end_holders_and_run(WaitFailure* failure) {
        account_.publish(WaitPhase::terminating, -1);
        if (!account_.is_lock_known())
            return false;
        failure->nobody_ended = end_holders(locks_in_the_way(), account_, GetUserId(), 0);
        return failure->nobody_ended == nullptr && run_after_eviction();
    }

    /// Takes the place of those who have just been ended. The session's lock_timeout goes on.
    bool run_after_eviction() {
        Timestamp end = steady_now() + policy_.limits.max_burst;
        if (LockTimeout > 0 && !lock_timeout_bounds_stays_)
            end = std::min(end, account_.started() + LockTimeout * kMillisecond);
        for (Microseconds left; (left = end - steady_now()) > 0;) {
            CHECK_FOR_INTERRUPTS();
            bool can_queue = needed_.contains(account_.lock());
            MemoryContextReset(round_context_); // the needed locks are in it
            if (attempt(can_queue ? left : 0) == AttemptEnd::done)
                return true;
            if (!has_queued_) // nor where another lock is in the way as well
                sleep_a_little(milliseconds(10 * kMillisecond));
        }
        return false;
    }

    /// All locks that are known, and the one that it waits for.
    std::span<const NeededLock> locks_in_the_way() const {
        std::span<const NeededLock> known = needed_.all();
        if (needed_.contains(account_.lock()))
            return known;
        auto* locks = new_array<NeededLock>(known.size() + 1);
        *std::copy(known.begin(), known.end(), locks) = account_.lock();
        return {locks, known.size() + 1};
    }

    core::WaitPolicy policy_ = {};
    core::WaitRhythm rhythm_ = {};
    WaitAccount account_;
    MemoryContext caller_context_;
    MemoryContext round_context_ = nullptr; // of one attempt and the wait after it
    bool in_transaction_;
    bool own_limit_ = false; // the deadline is the session's own lock_timeout
    // pg_lockguard.ddl_session_lock_timeout = stall
    bool lock_timeout_bounds_stays_ =
        settings.session_lock_timeout() == DdlSessionLockTimeout::stall;
    Microseconds max_kept_waiting_ = settings.ddl_lock_timeout * kMillisecond;
    WaitNotices notices_;
    DecisionRequest decision_ = {}; // that has been taken, and not acted on yet
    PortalSnapshot snapshot_;
    NeededLocks needed_;
    Attempts attempts_;
    WaitAttention attention_;
    bool has_queued_ = false; // the latest attempt did
};

} // namespace

void run_at_low_priority(const UtilityCall& call, CommandTag tag) {
    // In the subtransaction it would find itself in a transaction block.
    if (IsA(call.planned->utilityStmt, LockStmt))
        RequireTransactionBlock(call.context == PROCESS_UTILITY_TOPLEVEL, "LOCK TABLE");
    LowPriorityRun wait(call, tag);
    auto run = [&wait] {
        run_amending(
            ERRCODE_T_R_DEADLOCK_DETECTED, [&wait] { wait.run(); },
            [&wait](ErrorData*) { wait.tell_deadlock(); }, [] {});
    };
    run_amending(
        ERRCODE_QUERY_CANCELED, run,
        [&wait](ErrorData* error) {
            explain_stall(wait.statement(), error);
            wait.explain_end_of_wait(error);
        },
        [&wait] { wait.close(); });
}

} // namespace lockguard::pg
