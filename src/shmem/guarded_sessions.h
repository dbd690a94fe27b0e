// What sessions show of their guarded statements while these run, and of the transactions that keep
// the locks: for the one who watches how long that keeps others waiting (the worker), and what that
// one asks of them.
//
// One place for each PGPROC that can belong to a session. What a session shows are a few words,
// written by itself alone with plain stores; a reader takes them for good only where it read the
// same change counter before and after, and the PGPROC is still in that transaction. Of a prepared
// transaction the word that names it does for that: no two have the same.
// An order is written by the watcher alone: a word that a signal handler reads, which is 0 while
// the next one is written, and a report, under a spinlock that no handler takes. There is one
// watcher at most.
#pragma once

#include "core/time.h"
#include "boundary/compat.h"
#include "shmem/segment.h"

namespace lockguard::pg {

/// A session whose transaction has the locks of a guarded statement, or is about to take them.
struct GuardedSession {
    int pid;
    LocalTransactionId lxid;
    TimestampTz since;  // nobody counts as kept waiting by it since before
    int max_stall;      // ms: ddl_max_stall as the session has it; 0: no limit
    int lock_timeout;   // ms: ddl_lock_timeout, likewise
    CommandTag command; // of the guarded statement, the latest
    uint32 statement;   // the number of the one that runs now; 0 where none does
    bool in_attempt;    // that one can be rolled back and tried again: its waits can be ended
};

// ---- The session's side. Without shared memory they do nothing. They never ereport.

/// Shows that this backend's transaction is under the limit from now on, or that the limits are
/// others now. Wakes the watcher where it sleeps.
void publish_guarded_transaction(TimestampTz since, int max_stall, int lock_timeout);
/// Its locks are gone.
void withdraw_guarded_transaction();

/// A guarded statement runs, in the transaction that was published.
///
/// \param statement  more than 0; no two of a process have the same number
void publish_guarded_statement(uint32 statement, CommandTag command, bool in_attempt);
/// None runs any more.
void withdraw_guarded_statement();

/// The present transaction, of that id, is about to be prepared: who watches it goes on.
void publish_guarded_prepared(TransactionId xid, TimestampTz since, int max_stall,
                              CommandTag command);

/// Is there somebody who watches?
bool is_guard_watched();

// ---- The watcher's side

/// This process watches, until it exits.
void announce_guard_watcher();

/// Says that it will not look before somebody wakes it, or that it does again. Whoever publishes
/// after the former wakes it; who has done so just before is for the caller to look for once more.
void set_watcher_asleep(bool asleep);

/// What the PGPROC's session shows. False where it shows nothing of its present transaction.
bool read_guarded_session(int procno, GuardedSession* session);

/// The prepared transaction in that place, of max_prepared_transactions. False where there is none.
/// In the result pid is 0, and lxid the transaction's xid.
bool read_guarded_prepared(int place, GuardedSession* transaction);
/// It has been committed or rolled back.
void forget_guarded_prepared(int place, TransactionId xid);

/// What a session is asked for.
enum class GuardOrder : uint8 {
    none,
    end_wait,        // of the wait for a lock in which its statement is: others wait for too long
    end_worker_wait, // likewise, of a parallel worker of its
    cancel,          // the statement: it has kept others waiting for too long
};

/// Why.
struct StallReport {
    uint32 sessions;            // that were kept waiting
    core::Microseconds longest; // for up to so long
    LOCKTAG tag;                // what the longest of them waited for, of this session's
    LOCKMODE mode;
    // Of the wait that is to end.
    TimestampTz wait_start;
    LOCKTAG own_tag;
    LOCKMODE own_mode;
};

/// Leaves an order for a statement of the PGPROC's session, in place of an earlier one. Never
/// ereports; takes a spinlock.
void post_guard_order(int procno, uint32 statement, GuardOrder order, const StallReport& report);

/// The latest order to this session, if it is for that statement. Takes no lock: for a signal
/// handler. While an order is being written there is none: its signal comes afterwards.
///
/// \param wait_start  as in StallReport
GuardOrder order_for(uint32 statement, TimestampTz* wait_start);
/// The same, with the report that came with it. Takes a spinlock: not for a signal handler.
GuardOrder order_with_report(uint32 statement, StallReport* report);

extern const SharedPart kGuardedSessionsPart;
extern const SharedPart kGuardedPreparedPart;
extern const SharedPart kGuardWatcherPart;

} // namespace lockguard::pg
