// The worker's watch over guarded statements and the transactions that keep their locks:
// pg_lockguard.ddl_max_stall.
//
// While nothing is guarded it sleeps, and whoever begins wakes it (shmem/guarded_sessions). Then it
// glances at the process array a few times in the length of the limit, and only where somebody
// waits for a lock, whatever it is, it copies the lock table, once for all sessions that it
// watches. A look finds out since when each wait has lasted, so it comes in time for the end of the
// limit, and is not needed in between but to see who was not kept waiting before.
//
// What comes of it, for a session that has kept others waiting for too long:
//
//   a guarded statement runs            it is cancelled: an order (sessions/guard_orders)
//   ... and waits inside, and for that  its wait is ended, and the attempt rolled back: likewise
//   others wait for ddl_lock_timeout
//   something else runs                 it is cancelled (sessions/statement_cancel); where that
//                                       does not free the locks, because they were taken before a
//                                       savepoint, the next look sees it idle, and so:
//   idle in transaction                 blocker_action decides, with all its exemptions and the
//                                       fuse of terminations per minute; where it is off a WARNING
//
// A session that does not end what it does is asked again, at growing intervals.
#pragma once

#include "core/time.h"

#include "boundary/compat.h"

namespace lockguard::features {

struct StallWatch;

/// Begins to watch; this process goes on until it exits. May ereport out of memory.
StallWatch* start_stall_watch();

/// Looks where it is time to. Outside of transactions. Returns in how many microseconds it wants to
/// look again; negative: not before it is woken. May ereport out of memory.
///
/// \param context  where a look lives; to be reset afterwards
core::Microseconds watch_stalls(StallWatch* watch, MemoryContext context);

} // namespace lockguard::features
