// pg_lockguard.ddl_mode = low_priority: a statement that waits for its locks outside of their
// queues.
#pragma once

#include "boundary/compat.h"
#include "guard/utility_call.h"

namespace lockguard::pg {

/// Runs the statement as soon as it can have its locks, and until then keeps nobody waiting for
/// longer than pg_lockguard.ddl_lock_timeout. Fails with 55P03, naming who is in the way, after
/// pg_lockguard.ddl_max_wait or the session's lock_timeout, or when its own transaction keeps
/// others waiting for too long. Whatever happens, it leaves nothing behind: no setting, no
/// subtransaction, no published wait.
///
/// Not for statements that commit on their way, nor in parallel mode.
void run_at_low_priority(const UtilityCall& call, CommandTag tag);

} // namespace lockguard::pg
