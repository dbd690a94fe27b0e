// pg_lockguard.ddl_mode = lock_timeout: a statement that gives up early.
#pragma once

#include "boundary/bridge.h"
#include "guard/lock_timeout_report.h"
#include "guard/lock_timeout_scope.h"
#include "guard/utility_call.h"
#include "locks/wait_sampler.h"

namespace lockguard::pg {

/// Adds to a lock timeout of the statement which lock it was and who holds it. May ereport.
void explain_lock_timeout(const GuardedStatement& statement, ErrorData* error);

/// Runs body() with lock_timeout set to `timeout` (ms, more than 0), unless the session's own is
/// stricter, and adds to a lock timeout which lock it was and who holds it.
template <class Body>
void run_with_lock_timeout(const GuardedStatement& statement, int timeout, Body&& body) {
    LockTimeoutScope scope;
    scope.enter(timeout);
    WaitSampling sampling = start_wait_sampling(LockTimeout);
    run_amending(
        ERRCODE_LOCK_NOT_AVAILABLE, body,
        [&statement](ErrorData* error) { explain_lock_timeout(statement, error); },
        [&sampling] { stop_wait_sampling(sampling); });
    scope.leave();
}

/// The same for a statement as it is.
void run_with_lock_timeout(const UtilityCall& call, CommandTag tag, int timeout);

} // namespace lockguard::pg
