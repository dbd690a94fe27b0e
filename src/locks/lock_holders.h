// Who holds a lock now, with the modes: for those who look at a wait that stands in no queue, of
// which the lock manager's own wait-for graph knows nothing.
#pragma once

#include "core/lock_graph.h"

#include <span>

#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// A process, by its lock group's leader, or a prepared transaction that holds a conflicting mode.
struct LockHolder {
    SessionId session; // procno is beyond allProcCount, and pid 0, for a prepared transaction
    TransactionId prepared_xid; // of a prepared transaction, else invalid
    core::LockMode mode;        // the strongest conflicting one that it holds
};

/// Those that hold a mode of the lock that conflicts with `wanted`, each once, without the lock
/// group of `waiter` (a procno; negative: nobody is left out). A weak lock on a relation that never
/// met a strong one stands in the holder's own slots, so these are asked one process after the
/// other: no single moment, but nobody is missed who holds the lock all the time.
///
/// Allocated in the current memory context. Takes fpInfoLock of each process, and then the lock's
/// partition lock, LW_SHARED, one at a time: that for as long as it takes to go through what others
/// have in the partition, a sixteenth of all locks, until it meets the lock.
std::span<const LockHolder> find_lock_holders(const LOCKTAG& tag, LOCKMODE wanted, int waiter);

/// Their pids, ascending, as an int4[]; 0 for a prepared transaction.
Datum pids_of(std::span<const LockHolder> holders);

/// A glance without allocation, far cheaper than GetLockConflicts(), which takes a lock of every
/// process: does no transaction but this process's hold a mode of the lock that conflicts with
/// `mode`? (As there, what a session holds outside of transactions does not count.) Where that is
/// not certain, the answer is false. A holder who comes or goes in this very moment may be missed,
/// as in any look that takes no lock.
///
/// Takes the lock's partition lock, LW_SHARED, for a few microseconds at most. Never ereports.
bool seems_free(const LOCKTAG& tag, LOCKMODE mode);

} // namespace lockguard::pg
