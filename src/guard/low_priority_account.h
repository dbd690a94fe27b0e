// What others learn of a statement that waits at low priority: what it shows while it waits, the
// record, the counters, the server log.
#pragma once

#include "core/wait_policy.h"
#include "guard/ddl_event.h"
#include "guard/lock_timeout_report.h"
#include "guard/low_priority_wait.h"
#include "guard/needed_locks.h"
#include "shmem/wait_board.h"

namespace lockguard::pg {

/// One statement's. Plain data, and pointers into memory contexts.
///
/// The statement waits from its beginning until it has all locks that it knows of; where it then
/// finds that it needs another, and has to give them back, it waits again. What it does with its
/// locks is work, and not counted as waiting.
class WaitAccount {
  public:
    /// \param policy  of the same statement; what it counts is shown as well
    WaitAccount(CommandTag tag, const core::WaitPolicy& policy);

    const GuardedStatement& statement() const { return statement_; }
    core::Timestamp started() const { return started_; }   // by the steady clock
    TimestampTz started_at() const { return started_at_; } // the same by the clock
    bool has_waited() const { return has_waited_; }        // an attempt has come to nothing
    core::Microseconds waited() const;                     // so far, in all
    bool is_waiting() const { return waiting_since_ != 0; }
    bool is_lock_known() const { return lock_known_; } // ... that it waits for
    const NeededLock& lock() const { return lock_; }   // if is_lock_known()

    // ---- What happens

    /// The latest lock that was not to be had.
    void set_lock(const NeededLock& lock);
    /// It could not be told.
    void forget_lock() { lock_known_ = false; }

    /// An attempt has come to nothing: the statement waits (again), since that time by the steady
    /// clock. Wakes the worker. Needs a transaction, and a snapshot.
    void begin_to_wait(core::Timestamp since);
    /// From now on it waits in the queue, as any other statement. What it shows is to be withdrawn.
    void enter_queue();
    /// It has all locks that it knows of. Tells so. Needs a transaction.
    void end_wait();
    /// To be called regularly while it waits: tells what is to be told after deadlock_timeout, as
    /// log_lock_waits has it for a wait in a queue.
    void note_waiting(const AwaitedHolders& holders);
    /// The statement has come to its end, in whatever way. Never ereports.
    void close();

    /// Others could be kept waiting for that long.
    static void note_stall(core::Microseconds duration);
    /// Records an event, with who is in the way where that is asked for. Needs a transaction.
    void record(EventKind kind, const char* reason) const;
    void record_termination(int pid, const char* detail) const;

    // ---- What it shows

    /// Shows what the statement does now, for at most `duration` (negative: open).
    void publish(WaitPhase phase, core::Microseconds duration);
    /// Shows the same as before while the session goes from one transaction to the next.
    void publish_between_transactions();
    /// Shows nothing any more. Never ereports.
    void withdraw();
    bool is_published() const { return published_; }

  private:
    DdlEvent new_event(EventKind kind, const char* reason) const;
    void log_wait(const AwaitedHolders& holders);
    void log_end(bool queued);
    void count_span();

    GuardedStatement statement_;
    const core::WaitPolicy& policy_;
    core::Timestamp started_;
    TimestampTz started_at_;

    NeededLock lock_ = {};
    bool lock_known_ = false;
    TimestampTz lock_since_ = 0;
    bool against_wraparound_ = false;

    bool has_waited_ = false;
    core::Timestamp waiting_since_ = 0; // 0 while it does not wait
    core::Microseconds earlier_waits_ = 0;
    core::Timestamp queued_since_ = 0;  // 0: it has not entered the queue, or left it
    core::Microseconds queued_for_ = 0; // once it has left it
    bool told_ = false;                 // that it waits: its end is told as well
    bool logged_ = false;               // likewise
    bool published_ = false;
    LowPriorityWait shown_ = {};
};

} // namespace lockguard::pg
