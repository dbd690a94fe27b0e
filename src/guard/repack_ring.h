// pg_repack and a statement in a transaction block, which wait for each other and don't know it.
//
// While it works, pg_repack holds ACCESS SHARE on the table, in one connection; in another it polls
// pg_locks until all transactions that were there when it began have ended. A statement that waits
// for its lock, in one of these transactions, closes a ring that no deadlock detector sees.
// (Outside of a transaction block nobody's transaction lasts that long: see
// guard/low_priority_run.)
#pragma once

#include "guard/low_priority_wait.h"
#include "guard/needed_locks.h"

namespace lockguard::pg {

/// Does pg_repack hold the lock, and wait for the end of this transaction? It is recognised by its
/// application_name, or where that is another one by the advisory lock that it takes, in its other
/// connection, for the table that it works on. Returns its pid, or 0.
int repack_that_waits_for_us(const NeededLock& lock, const AwaitedHolders& holders);

} // namespace lockguard::pg
