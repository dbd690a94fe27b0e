// pg_lockguard.ddl_max_stall, on the side of the session that runs a guarded statement: it shows
// the statement while it runs, and the transaction as long as that has its locks
// (shmem/guarded_sessions), obeys (sessions/guard_orders), and puts the error into words.
//
// Who waits is looked at by the worker (worker/stall_watch). Where the library is not preloaded
// there is none: then a timer of the session's own looks at the locks that it holds while the
// statement runs (locks/own_watch), and its transaction is under no limit afterwards.
#pragma once

#include "boundary/bridge.h"
#include "guard/lock_timeout_report.h"

namespace lockguard::pg {

/// What of it can be rolled back, and tried again.
enum class StallScope : uint8 {
    attempt, // its waits for locks can be ended
    whole,
};

/// The statement runs from enter() to leave(), with all locks that it is known to need. A guarded
/// statement inside another is part of that one. enter() may ereport; leave() never does, and
/// belongs on error paths, too.
class StallLimit {
  public:
    void enter(CommandTag command, StallScope scope);
    void leave();

  private:
    bool entered_ = false;
};

/// Is the wait inside a statement looked at by somebody, who ends it where it keeps others waiting?
bool waits_are_watched();

/// Puts an error of a statement that has left its limit into the words of that, where it is the
/// limit's. May ereport.
void explain_stall(const GuardedStatement& statement, ErrorData* error);

/// A wait for a lock that was ended, maybe because others were kept waiting.
struct EndedWait {
    core::Microseconds kept_waiting; // the longest of them; 0: nobody
    AwaitedLock wait;                // of the session or its worker; unknown where nobody watches
};
/// Of the latest statement that was under the limit, where a wait of it has been ended.
EndedWait ended_wait();

/// A statement that is not guarded, in a transaction that is under the limit, is cancelled by the
/// worker; this makes pg_lockguard.ddl_max_stall known to it as it is assigned. From an assign
/// hook: never ereports.
void max_stall_changed(int max_stall);

/// Runs body() under the limit, as a whole.
template <class Body>
void run_under_stall_limit(const GuardedStatement& statement, Body&& body) {
    StallLimit limit;
    limit.enter(statement.tag, StallScope::whole);
    run_amending(
        ERRCODE_QUERY_CANCELED, body,
        [&statement, &limit](ErrorData* error) {
            limit.leave();
            explain_stall(statement, error);
        },
        [&limit] { limit.leave(); });
}

} // namespace lockguard::pg
