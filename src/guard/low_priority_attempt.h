// One attempt of a statement at low priority: in a subtransaction, all locks that are known, and
// then the statement; or nothing.
#pragma once

#include "guard/low_priority_account.h"
#include "guard/needed_locks.h"
#include "guard/utility_call.h"
#include "locks/wait_sampler.h"

namespace lockguard::pg {

enum class AttemptEnd {
    done,
    blocked,      // by a lock that was not to be had
    look_again,   // names mean something else than before
    broke_a_ring, // it was chosen to end a deadlock
};

/// What it is to do.
struct AttemptPlan {
    const NeededLock* queue_for; // the lock that is to be waited for in its queue; null for none
    core::Microseconds burst;    // for so long
    core::Microseconds patience; // for each lock that turns up inside the statement
    core::Microseconds soon;     // a transaction that is younger is expected to end soon
};

/// What it came to. Times are by the steady clock.
struct AttemptResult {
    AttemptEnd end;
    bool lock_known; // false also where the lock that blocked it could not be told
    NeededLock lock; // if lock_known
    core::Timestamp began;
    core::Timestamp got_all; // the locks that are known; 0: not
    core::Timestamp ended;
    core::Timestamp waited_since;    // where it is blocked
    core::Microseconds kept_waiting; // others, while it ran in vain, for up to so long; 0: nobody,
                                     // or not known
};

/// The portal's snapshot, which a statement lets go while it waits.
class PortalSnapshot {
  public:
    /// Where nobody but the statement itself needs it, so that VACUUM is not held back; and the
    /// catalogs' in any case.
    void release();
    /// The statement needs one to run with, and to look up what it needs. Returns whether it had
    /// been let go.
    bool restore();

  private:
    bool released_ = false;
};

/// Makes the attempts of one statement. Plain data, and pointers.
class Attempts {
  public:
    /// \param retry_deadlocks  whoever is in no transaction block has lost nothing by one
    Attempts(const UtilityCall& call, NeededLocks& needed, WaitAccount& account,
             PortalSnapshot& snapshot, bool retry_deadlocks)
        : call_(call), needed_(needed), account_(account), snapshot_(snapshot),
          query_id_(call.planned->queryId), retry_deadlocks_(retry_deadlocks) {}

    /// Takes all locks that are known, if they are free (but see AttemptPlan::queue_for), and runs
    /// the statement, all or nothing. Where nobody else can be in its way, or the transaction has
    /// its locks already, it runs without a subtransaction, and for good. Allocates in the current
    /// memory context. Errors of the statement itself go on, and so does whatever was sent to the
    /// session.
    AttemptResult attempt(const AttemptPlan& plan);

    /// The statement as plain PostgreSQL would have it, with the locks that are known taken first,
    /// in their queues.
    ///
    /// \param lock_timeout  ms; 0 for none
    void run_in_queue(int lock_timeout);

  private:
    struct Progress;

    bool run_without_subtransaction(const LockTargets& targets);
    void run_for_good(int lock_timeout, bool queues, bool limited);
    void queue_for_targets();
    bool find_lock_in_the_way(const AttemptPlan& plan, AttemptResult* result) const;
    bool find_snapshot_in_the_way(const AttemptPlan& plan, AttemptResult* result) const;
    bool lock_and_run(const AttemptPlan& plan, uint64 messages, const LockTargets& targets,
                      Progress* progress);
    void run_statement(core::Microseconds patience) const;
    bool is_worth_another_try(const ErrorData* error, const InterruptMarks& marks);
    void learn_from(const ErrorData& error, const Progress& progress, const AttemptPlan& plan,
                    AttemptResult* result);
    void learn_limited_wait(AttemptResult* result);
    void learn_wait(const AwaitedLock& failed, AttemptResult* result);
    bool have_changed(const LockTargets& before) const;

    const UtilityCall& call_;
    NeededLocks& needed_;
    WaitAccount& account_;
    PortalSnapshot& snapshot_;
    decltype(PlannedStmt::queryId) query_id_;
    bool retry_deadlocks_;
    int deadlocks_ = 0;
    int foreign_lock_timeout_ = 0; // ms; of a function's own, which has ended an attempt unseen
};

} // namespace lockguard::pg
