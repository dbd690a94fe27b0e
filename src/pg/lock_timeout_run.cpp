#include "pg/lock_timeout_run.h"

#include "pg/bridge.h"
#include "pg/lock_timeout_report.h"
#include "pg/lock_timeout_scope.h"
#include "pg/low_priority_run.h"
#include "pg/statistics.h"
#include "pg/wait_sampler.h"

namespace lockguard::pg {

namespace {

/// Adds to a lock timeout which lock it was and who holds it.
void explain_lock_timeout(const GuardedStatement& statement, ErrorData* error) {
    // A guarded statement inside this one has explained it already: its words are more exact.
    if (!is_lock_timeout(error) || error->detail != nullptr)
        return;
    TimestampTz failed_at = GetCurrentTimestamp();
    FailedLockWait failed;
    if (!failed_lock_wait(&failed))
        return;
    core::Microseconds waited = failed_at - failed.started_at;
    // Inside a statement at low priority it only ends an attempt of that one.
    bool final = !runs_at_low_priority();
    if (final)
        count(Counter::timeouts_lock);
    // It stood in the queue all the time.
    Explanation explanation = explain(statement, {failed, waited, 0, 0, waited, 1, final});
    error->detail = const_cast<char*>(explanation.detail);
    error->hint = const_cast<char*>(explanation.hint);
}

} // namespace

void run_with_lock_timeout(const UtilityCall& call, CommandTag tag, int timeout) {
    const GuardedStatement statement = {tag, current_reader()};
    LockTimeoutScope scope;
    scope.enter(timeout);
    WaitSampling sampling = start_wait_sampling(LockTimeout);
    run_amending(
        ERRCODE_LOCK_NOT_AVAILABLE, [&call] { pg::run(call); },
        [&statement](ErrorData* error) { explain_lock_timeout(statement, error); },
        [&sampling] { stop_wait_sampling(sampling); });
    scope.leave();
}

} // namespace lockguard::pg
