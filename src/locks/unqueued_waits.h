// Waits that stand in no queue of the lock table: for a safe snapshot, and at low priority. Asked
// for after the lock table is copied (locks/lock_copy), with no lock held.
#pragma once

#include <span>

#include "boundary/memory.h"
#include "locks/lock_copy.h"
#include "locks/lock_holders.h"
#include "shmem/wait_board.h"

namespace lockguard::pg {

/// The waits for safe snapshots: the transactions that each of them waits for.
struct SafeSnapshotWaits {
    struct Pair {
        std::size_t waiter; // index into waiters
        CopiedSession blocker;
    };

    GrowingArray<CopiedSession> waiters;
    GrowingArray<Pair> pairs;
};

/// predicate.c knows who waits and for whom, under a lock of its own. A transaction that was
/// prepared meanwhile has pid 0 and no way to say which it was: its procno is -1.
void copy_safe_snapshot_waits(SafeSnapshotWaits* waits);

/// A wait outside of the queue, and who holds what it is after.
struct LowPriorityWaiter {
    CopiedSession session;
    LowPriorityWait wait;                // its lock is known
    std::span<const LockHolder> holders; // perhaps the session itself among them
};

struct LowPriorityWaiters {
    GrowingArray<LowPriorityWaiter> waiters;
    std::size_t holder_count; // of all of them

    bool contains(int procno) const;
};

/// One for whose lock nobody is found stays as it is in the lock table.
void copy_low_priority_waits(LowPriorityWaiters* found);

/// Looks without a lock.
bool anybody_waits_at_low_priority();

/// Since when it waits for its lock.
TimestampTz start_of(const LowPriorityWait& wait);

/// May such a session hold locks at this moment that it gives back at once, because it can't have
/// all of them?
bool takes_locks_for_a_moment(WaitPhase phase);

/// Since when a process in a queue waits for that lock: one at low priority that stands there for a
/// moment has waited for it before.
///
/// \param queued  since when it stands there
TimestampTz start_in_queue(const CopiedWaiter& waiter, const LOCKTAG& tag, TimestampTz queued);

} // namespace lockguard::pg
