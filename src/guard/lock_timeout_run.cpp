#include "guard/lock_timeout_run.h"

#include "guard/heavy_guard.h"
#include "guard/nesting.h"
#include "shmem/counters.h"

namespace lockguard::pg {

void explain_lock_timeout(const GuardedStatement& statement, ErrorData* error) {
    // A guarded statement inside this one has explained it already: its words are more exact.
    if (!is_lock_timeout(error) || error->detail != nullptr)
        return;
    TimestampTz failed_at = GetCurrentTimestamp();
    AwaitedLock failed;
    if (!lock_of_timeout(&failed))
        return;
    core::Microseconds waited = failed_at - failed.started_at;
    // Inside a statement at low priority it may only end an attempt of that one.
    bool final = nesting() != Nesting::attempt;
    if (final)
        count(Counter::timeouts_lock);
    // It stood in the queue all the time.
    Explanation explanation = explain(statement, {failed, waited, 0, 0, waited, 1, final});
    error->detail = const_cast<char*>(explanation.detail);
    error->hint = const_cast<char*>(explanation.hint);
}

void run_with_lock_timeout(const UtilityCall& call, CommandTag tag, int timeout) {
    run_with_lock_timeout(GuardedStatement{tag, current_reader()}, timeout,
                          [&call, tag] { run_watched(call, tag); });
}

} // namespace lockguard::pg
