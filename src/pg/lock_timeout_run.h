// pg_lockguard.ddl_mode = lock_timeout: a statement that gives up early.
#pragma once

#include "pg/compat.h"
#include "pg/utility_call.h"

namespace lockguard::pg {

/// Runs the statement with lock_timeout set to `timeout` (ms, more than 0), unless the session's
/// own is stricter, and adds to a lock timeout which lock it was and who holds it.
void run_with_lock_timeout(const UtilityCall& call, CommandTag tag, int timeout);

} // namespace lockguard::pg
