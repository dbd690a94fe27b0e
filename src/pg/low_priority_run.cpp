// The loop: look up which locks are needed; if they are free, take them all and run the statement
// in a subtransaction; else give everything back, and do what core/wait_policy says: wait for those
// who hold the lock, back off, queue for a moment, or give up.
//
// A lock that turns up inside the statement ends the attempt after a short lock_timeout. From then
// on it is one of the locks that are known, and waited for like the first.
#include "pg/low_priority_run.h"

#include "core/text.h"
#include "core/wait_policy.h"

#include <algorithm>

#include "pg/bridge.h"
#include "pg/event_ring.h"
#include "pg/lock_snapshot.h"
#include "pg/lock_targets.h"
#include "pg/lock_timeout_report.h"
#include "pg/lock_timeout_run.h"
#include "pg/lock_timeout_scope.h"
#include "pg/low_priority_wait.h"
#include "pg/needed_locks.h"
#include "pg/settings.h"
#include "pg/shared_state.h"
#include "pg/statistics.h"
#include "pg/termination.h"
#include "pg/wait_sampler.h"

extern "C" {
#include "catalog/pg_authid.h"
#include "storage/lmgr.h"
#include "storage/sinval.h"
#include "tcop/pquery.h"
#include "utils/inval.h"
}

namespace lockguard::pg {

namespace {

using compat::steady_now;
using core::Microseconds;
using core::Timestamp;

constexpr Microseconds kMillisecond = 1000;

/// What one attempt came to.
enum class AttemptEnd {
    done,
    blocked,      // by the lock that is `blocked_` now
    unclear,      // by a lock that could not be told
    look_again,   // names mean something else than before
    broke_a_ring, // it was chosen to end a deadlock
};

/// Whole milliseconds, at least 1, as a timer wants them.
int milliseconds(Microseconds duration) {
    Microseconds rounded = (duration + kMillisecond - 1) / kMillisecond;
    return static_cast<int>(std::clamp<Microseconds>(rounded, 1, INT_MAX));
}

/// A statement of ours is running in this backend: what it runs in turn is not guarded likewise.
bool statement_is_running;

/// No more deadlocks than this are resolved by trying again.
constexpr int kMaxDeadlocks = 3;

/// After a run in vain the next one, where it may end likewise, waits so many times as long as that
/// one took: others wait for a tenth of the time at most.
constexpr int kRestAfterVainRun = 9;

/// So many sets of holders are ended, one after the other, before a statement gives up.
constexpr int kMaxTerminationRounds = 10;

/// One statement's wait. Plain data, and pointers into memory contexts.
class LowPriorityRun {
  public:
    LowPriorityRun(const UtilityCall& call, CommandTag tag)
        : call_(call), statement_{tag, current_reader()}, started_(steady_now()),
          started_at_(GetCurrentTimestamp()), caller_context_(CurrentMemoryContext),
          needed_(CurrentMemoryContext) {
        core::WaitLimits limits = {};
        limits.max_burst = settings.ddl_lock_timeout * kMillisecond;
        limits.deadlock_timeout = DeadlockTimeout * kMillisecond;
        limits.deadline = core::kUnknownTime;
        int patience = settings.ddl_max_wait;
        if (LockTimeout > 0 && (patience == 0 || LockTimeout <= patience)) {
            patience = LockTimeout;
            own_limit_ = true;
        }
        if (patience > 0)
            limits.deadline = started_ + patience * kMillisecond;
        policy_ = core::start_wait(limits, static_cast<std::uint64_t>(MyProcPid) ^
                                               static_cast<std::uint64_t>(started_at_));
        // Only then can it have locks before it begins (a lock of the session itself aside).
        in_transaction_ = call.context != PROCESS_UTILITY_TOPLEVEL || IsTransactionBlock() ||
                          IsSubTransaction() || compat::is_pipelining();
        may_release_snapshot_ = !in_transaction_ && !IsolationUsesXactSnapshot();
    }

    void run() {
        round_context_ =
            AllocSetContextCreate(caller_context_, "pg_lockguard attempt", ALLOCSET_DEFAULT_SIZES);
        while (!try_once()) {
        }
        if (logged_)
            log_end();
        count_end();
        if (has_waited_)
            record(EventKind::ddl_acquired, nullptr);
        else
            count(Counter::statements_immediate);
        MemoryContextDelete(round_context_);
    }

    /// Shows nothing any more. Never ereports.
    void withdraw() {
        if (published_)
            withdraw_low_priority_wait();
        published_ = false;
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
        if (!has_waited_)
            begin_to_wait(); // looks names up: before the snapshot is let go
        if (may_release_snapshot_)
            snapshot_released_ |= release_portal_snapshot();
        AwaitedHolders holders = {};
        if (end == AttemptEnd::blocked)
            holders = look_at_holders(blocked_.tag, blocked_.mode);
        against_wraparound_ = holders.against_wraparound;
        attend(holders);

        core::WaitDecision decision = core::decide(policy_, holders.obstacles, steady_now());
        switch (decision.step) {
        case core::WaitStep::wait_for_holders:
            publish(WaitPhase::waiting, decision.duration);
            wait_for(holders, decision.duration);
            break;
        case core::WaitStep::back_off:
            publish(WaitPhase::backing_off, decision.duration);
            sleep_a_little(milliseconds(decision.duration));
            break;
        case core::WaitStep::queue:
            if (!needed_.contains(blocked_)) {
                // No lock to queue for: only the statement itself takes it.
                publish(WaitPhase::waiting, decision.duration);
                wait_for(holders, decision.duration);
                core::burst_ended(policy_, steady_now(), 0, false);
                break;
            }
            publish(WaitPhase::queued, decision.duration);
            return attempt(decision.duration) == AttemptEnd::done;
        case core::WaitStep::give_up:
            return give_up();
        }
        rest();
        publish(WaitPhase::trying, -1);
        return false;
    }

    /// Others have waited while the statement ran in vain. What it waited for is known now, and
    /// looked at before it runs again; but not every lock can be.
    void rest() {
        if (has_blocked_lock_ && is_learnable(blocked_))
            return;
        Timestamp end = std::min(rest_end_, policy_.limits.deadline);
        for (Microseconds left; (left = end - steady_now()) > 0;) {
            publish(WaitPhase::backing_off, left);
            sleep_a_little(milliseconds(std::min(left, longest_sleep())));
            attend({});
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
                if (sleep_until_end(holder.vxid, milliseconds(std::min(left, longest_sleep()))))
                    break;
                attend(holders);
            }
        }
    }

    /// The longest sleep on one holder, before there is something else to look after.
    Microseconds longest_sleep() const {
        // Below deadlock_timeout: a wait as long as that has the deadlock detector run, and with
        // log_lock_waits each would be a line in the log. (See attend() for deadlocks.)
        Microseconds longest =
            std::max(policy_.limits.deadlock_timeout * 9 / 10, 50 * kMillisecond);
        if (in_transaction_ || kept_waiting_)
            longest = std::min(longest, std::max(policy_.limits.max_burst / 2, 10 * kMillisecond));
        // Something happens at deadlock_timeout: autovacuum is cancelled, and a line is logged.
        Microseconds until_then = policy_.limits.deadlock_timeout - waited();
        if (until_then > 0)
            longest = std::min(longest, until_then);
        return longest;
    }

    /// Looks after all else while the statement waits for these holders.
    void attend(const AwaitedHolders& holders) {
        if (waited() >= policy_.limits.deadlock_timeout) {
            for (const AwaitedHolder& holder : holders.holders) {
                // As the deadlock detector does for those that stand in the queue.
                if (holder.type == B_AUTOVAC_WORKER && !holder.against_wraparound)
                    cancel_transaction(holder.vxid);
            }
            if (!logged_ && log_lock_waits && has_blocked_lock_)
                log_wait(holders);
        }
        Timestamp now = steady_now();
        if (now < next_look_behind_)
            return;
        next_look_behind_ = now + std::max(policy_.limits.max_burst / 4, 10 * kMillisecond);
        mind_those_behind(holders);
    }

    /// In a transaction that holds locks, politeness has an end.
    void mind_those_behind(const AwaitedHolders& holders) {
        if (!anybody_waits())
            return;
        WaitersBehind behind = look_behind(holders.holders);
        kept_waiting_ = behind.sessions > 0;
        if (behind.deadlocked != nullptr) {
            // Whoever of us sleeps on the other for as long as deadlock_timeout has the deadlock
            // detector look, and that finds it. Nobody else could: we are never in one place for
            // long.
            Microseconds patience = policy_.limits.deadlock_timeout * 11 / 10 + 10 * kMillisecond;
            if (policy_.limits.deadline != core::kUnknownTime)
                patience = std::min(patience, policy_.limits.deadline - steady_now());
            sleep_until_end(behind.deadlocked->vxid, milliseconds(patience));
            return;
        }
        if (behind.longest > policy_.limits.max_burst)
            fail(behind.sessions, behind.longest);
    }

    // ---- One attempt

    /// Takes all locks that are known and runs the statement, all or nothing. With a burst of 0 the
    /// locks are taken if they are free; else the lock that was not to be had is waited for in its
    /// queue, for that long.
    AttemptEnd attempt(Microseconds burst) {
        // Names are looked up without a lock, which would have done this.
        AcceptInvalidationMessages();
        uint64 messages = SharedInvalidMessageCounter;
        LockTargets targets = find_lock_targets(call_.planned->utilityStmt);
        if (targets.only_private) { // nobody else can be in the way, and nobody else is harmed
            restore_snapshot();
            pg::run(call_);
            return AttemptEnd::done;
        }
        needed_.collect(targets);
        if (burst == 0) {
            // Without the lock manager: from wal_level replica on, an attempt at ACCESS EXCLUSIVE
            // gives the transaction an id, which holds VACUUM back for as long as the wait lasts.
            for (const NeededLock& lock : needed_.all()) {
                if (has_holders(lock.tag, lock.mode))
                    return block_on(lock);
            }
            // One that can't be taken beforehand, such as a row's, but stands in the way still.
            if (has_blocked_lock_ && !is_learnable(blocked_) &&
                has_holders(blocked_.tag, blocked_.mode))
                return AttemptEnd::blocked;
        } else if (!needed_.contains(blocked_)) {
            return AttemptEnd::look_again;
        }
        restore_snapshot();

        // Lives in this frame, and is written by the calls below: a longjmp leaves it as it was.
        Progress progress = {};
        auto body = [&] { return lock_and_run(burst, messages, targets, &progress); };
        auto expected = [this](const ErrorData* error) {
            return is_lock_timeout(error) || (error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED &&
                                              !in_transaction_ && ++deadlocks_ <= kMaxDeadlocks);
        };
        Timestamp start = steady_now();
        SubtransactionEnd end = run_in_subtransaction(body, expected);
        AttemptEnd result = end.kept               ? AttemptEnd::done
                            : end.error == nullptr ? progress.end
                                                   : learn_from(*end.error, progress);
        report_to_policy(burst, start, end.kept, progress);
        return result;
    }

    /// How far an attempt came.
    struct Progress {
        AttemptEnd end;     // where it gave up by itself
        Timestamp got_lock; // 0: the lock that it queued for was not to be had
        Timestamp got_all;  // 0: nor were all of them
    };

    /// The inside of the subtransaction.
    bool lock_and_run(Microseconds burst, uint64 messages, const LockTargets& targets,
                      Progress* progress) {
        if (burst > 0) {
            LockTimeoutScope scope;
            scope.enter(milliseconds(burst));
            take_in_queue(blocked_);
            scope.leave();
            progress->got_lock = steady_now();
        }
        for (const NeededLock& lock : needed_.in_taking_order()) {
            if (!take_if_free(lock)) {
                progress->end = block_on(lock);
                return false;
            }
        }
        if (messages != SharedInvalidMessageCounter && have_changed(targets)) {
            progress->end = AttemptEnd::look_again;
            return false;
        }
        progress->got_all = steady_now();
        if (published_)
            publish(WaitPhase::running, -1);
        run_statement();
        return true;
    }

    /// With a short lock_timeout: while the statement waits for a lock that was not known, others
    /// wait for those that it has.
    void run_statement() {
        Microseconds patience = core::burst_length(policy_);
        if (policy_.limits.deadline != core::kUnknownTime)
            patience = std::min(patience, policy_.limits.deadline - steady_now());
        LockTimeoutScope scope;
        scope.enter(milliseconds(patience));
        WaitSampling sampling = start_wait_sampling(LockTimeout);
        statement_is_running = true;
        run_guarded([this] { run_copy(call_); },
                    [&sampling] {
                        statement_is_running = false;
                        stop_wait_sampling(sampling);
                    });
        scope.leave();
    }

    AttemptEnd learn_from(const ErrorData& error, const Progress& progress) {
        if (error.sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED) {
            count(Counter::deadlocks);
            record(EventKind::ddl_deadlock, "tried again");
            return AttemptEnd::broke_a_ring;
        }
        if (progress.got_all == 0)
            return AttemptEnd::blocked; // it queued for blocked_, in vain
        FailedLockWait failed;
        if (!failed_lock_wait(&failed) || !failed.lock_known)
            return AttemptEnd::unclear;
        needed_.learn({failed.tag, failed.mode});
        return block_on({failed.tag, failed.mode});
    }

    void report_to_policy(Microseconds burst, Timestamp start, bool kept,
                          const Progress& progress) {
        Timestamp now = steady_now();
        if (burst > 0) {
            Timestamp end = progress.got_all != 0 ? progress.got_all : now;
            core::burst_ended(policy_, end, end - start, progress.got_all != 0);
            count(Counter::bursts);
            note_stall(end - start);
        }
        // Whoever came while the statement had its locks, and lost them again, waited for nothing.
        if (progress.got_all == 0 || kept)
            return;
        core::kept_waiting(policy_, now, now - progress.got_all);
        note_stall(now - progress.got_all);
        // The next attempt might end in the same way.
        rest_end_ = now + kRestAfterVainRun * (now - progress.got_all);
    }

    bool have_changed(const LockTargets& before) const {
        LockTargets now = find_lock_targets(call_.planned->utilityStmt);
        return !std::equal(before.locks.begin(), before.locks.end(), now.locks.begin(),
                           now.locks.end(), [](LockTarget left, LockTarget right) {
                               return left.relation == right.relation && left.mode == right.mode;
                           });
    }

    AttemptEnd block_on(const NeededLock& lock) {
        blocked_ = lock;
        has_blocked_lock_ = true;
        return AttemptEnd::blocked;
    }

    // ---- The end of patience

    bool give_up() {
        if (!own_limit_) {
            switch (settings.on_timeout()) {
            case DdlOnTimeout::error:
                break;
            case DdlOnTimeout::queue:
                run_in_queue();
                return true;
            case DdlOnTimeout::terminate:
                if (end_holders_and_run())
                    return true;
                break;
            }
        }
        fail(0, 0);
    }

    [[noreturn]] void fail(std::uint32_t kept_waiting, Microseconds kept_waiting_for) {
        MemoryContextSwitchTo(caller_context_);
        count_end();
        // Who has kept others waiting for too long fails by ddl_lock_timeout.
        count(own_limit_ || kept_waiting > 0 ? Counter::timeouts_lock : Counter::timeouts_total);
        // Outside of the queue, who came last is in the way as much as who came first.
        FailedLockWait lock = {GetCurrentTimestamp(), has_blocked_lock_, blocked_.tag,
                               blocked_.mode};
        Explanation explanation =
            explain(statement_, {lock, waited(), kept_waiting, kept_waiting_for,
                                 policy_.longest_stay, static_cast<int32>(policy_.attempts)});
        ereport(ERROR,
                (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                 errmsg("canceling statement due to lock timeout"),
                 explanation.detail != nullptr ? errdetail_internal("%s", explanation.detail) : 0,
                 explanation.hint != nullptr ? errhint("%s", explanation.hint) : 0));
    }

    /// As plain PostgreSQL would have done it, with what is left of the session's lock_timeout.
    void run_in_queue() {
        withdraw();
        restore_snapshot();
        MemoryContextSwitchTo(caller_context_);
        if (LockTimeout > 0) {
            Microseconds left = LockTimeout * kMillisecond - waited();
            run_with_lock_timeout(call_, statement_.tag, milliseconds(left));
        } else {
            pg::run(call_);
        }
    }

    /// Ends who holds the lock, and takes its place in the queue, so that newcomers wait. Returns
    /// false where that does not succeed.
    bool end_holders_and_run() {
        for (int round = 0; round < kMaxTerminationRounds; round++) {
            publish(WaitPhase::terminating, -1);
            if (has_blocked_lock_ && !end_holders())
                return false;
            AttemptEnd end = AttemptEnd::look_again;
            while (end == AttemptEnd::look_again) {
                CHECK_FOR_INTERRUPTS();
                end = attempt(has_blocked_lock_ && is_lock_needed_now() ? policy_.limits.max_burst
                                                                        : 0);
            }
            if (end == AttemptEnd::done)
                return true;
        }
        return false;
    }

    bool is_lock_needed_now() {
        needed_.collect(find_lock_targets(call_.planned->utilityStmt));
        return needed_.contains(blocked_);
    }

    /// All of them, or none where one may not be ended.
    bool end_holders() {
        AwaitedHolders found = look_at_holders(blocked_.tag, blocked_.mode);
        for (const AwaitedHolder& holder : found.holders) {
            if (!may_end(holder))
                return false;
        }
        core::Eviction eviction = {};
        eviction.pid = MyProcPid;
        eviction.command = GetCommandTagName(statement_.tag);
        eviction.lock_mode = GetLockmodeName(blocked_.tag.locktag_lockmethodid, blocked_.mode);
        eviction.relation =
            blocked_.tag.locktag_type == LOCKTAG_RELATION ? blocked_.tag.locktag_field2 : 0;
        eviction.waited = waited();
        const char* detail = call_core(CurrentMemoryContext, [&eviction](auto& memory) {
                                 return core::eviction_detail(eviction, memory);
                             }).data();
        for (const AwaitedHolder& holder : found.holders) {
            if (holder.type == B_AUTOVAC_WORKER)
                cancel_transaction(holder.vxid);
            else if (terminate_transaction(holder.vxid, detail)) {
                count(Counter::ddl_terminations);
                record_termination(holder, detail);
                ereport(LOG, (errmsg("pg_lockguard: terminated PID %d, which held a lock for which "
                                     "PID %d (%s) waited",
                                     holder.pid, MyProcPid, GetCommandTagName(statement_.tag))));
            }
        }
        return true;
    }

    /// The rule of pg_terminate_backend(), for the role that runs the statement. Only sessions of
    /// clients are ended.
    static bool may_end(const AwaitedHolder& holder) {
        if (holder.type == B_AUTOVAC_WORKER)
            return !holder.against_wraparound;
        if (holder.type != B_BACKEND)
            return false;
        Oid role = GetPGProcByNumber(holder.procno)->roleId;
        if (superuser())
            return true;
        if (!OidIsValid(role) || superuser_arg(role))
            return false;
        return has_privs_of_role(GetUserId(), role) ||
               has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND);
    }

    // ---- The record

    /// The first attempt has come to nothing: the statement waits. Others learn of it, the worker
    /// first, once there is something to see.
    void begin_to_wait() {
        has_waited_ = true;
        count(Counter::statements_waited);
        publish(WaitPhase::trying, -1);
        wake_worker();
        record(EventKind::ddl_waited, nullptr);
    }

    void note_stall(Microseconds duration) {
        if (duration <= 0)
            return;
        count(Counter::stall_time, static_cast<uint64>(duration));
        note_longest(Longest::stall, duration);
    }

    void count_end() {
        if (!has_waited_)
            return;
        Microseconds duration = waited();
        count(Counter::wait_time, static_cast<uint64>(std::max<Microseconds>(duration, 0)));
        note_longest(Longest::wait, duration);
    }

    DdlEvent new_ddl_event(EventKind kind, const char* reason) const {
        DdlEvent event = {};
        event.kind = kind;
        event.command = GetCommandTagName(statement_.tag);
        event.lock_known = has_blocked_lock_;
        event.tag = blocked_.tag;
        event.mode = blocked_.mode;
        event.waited = waited();
        event.stall = policy_.longest_stay;
        event.attempts = static_cast<int32>(policy_.attempts);
        event.reason = reason;
        return event;
    }

    /// Names who is in the way, where somebody is.
    void record(EventKind kind, const char* reason) const {
        DdlEvent event = new_ddl_event(kind, reason);
        const char* object = nullptr;
        if (has_blocked_lock_) {
            NameLookup lookup = open_name_lookup();
            FailedLockWait lock = {GetCurrentTimestamp(), true, blocked_.tag, blocked_.mode};
            object = locked_object_text(blocked_.tag, lookup);
            if (kind == EventKind::ddl_waited)
                event.culprits = find_lock_culprits(lock, statement_.reader, lookup);
            close_name_lookup(lookup);
        }
        record_ddl_event(event, object);
    }

    void record_termination(const AwaitedHolder& holder, const char* detail) const {
        core::Culprit culprit = {};
        culprit.pid = holder.pid;
        DdlEvent event = new_ddl_event(EventKind::ddl_blocker_terminated, detail);
        event.culprits = {&culprit, 1};
        record_ddl_event(event, nullptr);
    }

    // ---- Being seen

    Microseconds waited() const { return steady_now() - started_; }

    /// Shows what the statement does now, for at most `duration` (negative: open).
    void publish(WaitPhase phase, Microseconds duration) {
        LowPriorityWait shown = {};
        shown.pid = MyProcPid;
        shown.lxid = compat::lxid_of(MyProc);
        shown.database = MyDatabaseId;
        shown.role = MyProc->roleId;
        shown.command = statement_.tag;
        shown.tag = blocked_.tag;
        shown.mode = blocked_.mode;
        shown.phase = phase;
        shown.against_wraparound = against_wraparound_;
        shown.attempts = policy_.attempts;
        shown.started_at = started_at_;
        if (policy_.limits.deadline != core::kUnknownTime)
            shown.deadline = started_at_ + (policy_.limits.deadline - started_);
        if (duration >= 0)
            shown.phase_end = GetCurrentTimestamp() + duration;
        shown.longest_stall = policy_.longest_stay;
        publish_low_priority_wait(shown);
        published_ = true;
    }

    /// As log_lock_waits has it for a wait in a queue.
    void log_wait(const AwaitedHolders& holders) {
        logged_ = true;
        StringInfoData lock;
        StringInfoData pids;
        initStringInfo(&lock);
        initStringInfo(&pids);
        DescribeLockTag(&lock, &blocked_.tag);
        for (const AwaitedHolder& holder : holders.holders)
            appendStringInfo(&pids, "%s%d", pids.len == 0 ? "" : ", ", holder.pid);
        Microseconds so_far = waited();
        ereport(
            LOG,
            (errmsg("process %d still waits at low priority for %s on %s after %lld.%03d ms",
                    MyProcPid, GetLockmodeName(blocked_.tag.locktag_lockmethodid, blocked_.mode),
                    lock.data, static_cast<long long>(so_far / kMillisecond),
                    static_cast<int>(so_far % kMillisecond)),
             errdetail_log_plural("Process holding the lock: %s.",
                                  "Processes holding the lock: %s.", holders.holders.size(),
                                  pids.data)));
    }

    void log_end() {
        StringInfoData lock;
        initStringInfo(&lock);
        DescribeLockTag(&lock, &blocked_.tag);
        Microseconds so_far = waited();
        ereport(LOG, (errmsg("process %d acquired %s on %s at low priority after %lld.%03d ms",
                             MyProcPid,
                             GetLockmodeName(blocked_.tag.locktag_lockmethodid, blocked_.mode),
                             lock.data, static_cast<long long>(so_far / kMillisecond),
                             static_cast<int>(so_far % kMillisecond))));
    }

    /// The statement needs one to run with.
    void restore_snapshot() {
        if (!snapshot_released_)
            return;
        EnsurePortalSnapshotExists();
        snapshot_released_ = false;
    }

    // ---- What stays the same

    const UtilityCall& call_;
    GuardedStatement statement_;
    Timestamp started_; // by the steady clock
    TimestampTz started_at_;
    MemoryContext caller_context_;
    bool own_limit_ = false; // the deadline is the session's own lock_timeout
    bool in_transaction_;
    bool may_release_snapshot_; // nobody but the statement itself needs the portal's

    // ---- What changes

    core::WaitPolicy policy_;
    MemoryContext round_context_ = nullptr; // of one attempt and the wait after it
    NeededLocks needed_;
    NeededLock blocked_ = {}; // the latest lock that was not to be had
    bool has_blocked_lock_ = false;
    bool against_wraparound_ = false;
    int deadlocks_ = 0;
    bool kept_waiting_ = false; // somebody waits behind us, by the latest look
    Timestamp next_look_behind_ = 0;
    Timestamp rest_end_ = 0;
    bool snapshot_released_ = false;
    bool published_ = false;
    bool has_waited_ = false; // an attempt has come to nothing
    bool logged_ = false;
};

} // namespace

void run_at_low_priority(const UtilityCall& call, CommandTag tag) {
    // In the subtransaction it would find itself in a transaction block.
    if (IsA(call.planned->utilityStmt, LockStmt))
        RequireTransactionBlock(call.context == PROCESS_UTILITY_TOPLEVEL, "LOCK TABLE");
    LowPriorityRun wait(call, tag);
    run_guarded([&wait] { wait.run(); }, [&wait] { wait.withdraw(); });
}

bool runs_at_low_priority() {
    return statement_is_running;
}

} // namespace lockguard::pg
