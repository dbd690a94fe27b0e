// The lock table, copied: every lock that somebody waits for, with its holders and its queue, all
// in one instant.
//
// Lock order: all partition locks of the lock table, LW_SHARED, in index order; nothing else is
// taken or allocated while they are held, and no error can be raised.
#pragma once

#include "boundary/compat.h"
#include "boundary/memory.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// What is copied of a process (or of its lock group's leader) while the partition locks are held:
/// only what must be of that very instant. A PGPROC is many cache lines long, and each one read
/// adds to the time that the locks are held.
struct CopiedSession {
    SessionId id;
    TransactionId prepared_xid; // of a prepared transaction, else invalid
};

struct CopiedHolder {
    CopiedSession session;
    LOCKMASK held;
};

struct CopiedWaiter {
    CopiedSession session;
    int procno; // of the waiting process itself
    LOCKMODE wanted;
    TimestampTz wait_start; // 0 where it is so young that it is not published yet
};

struct CopiedLock {
    LOCKTAG tag;
    int first_holder;
    int holder_count;
    int first_waiter; // in the order of the queue
    int waiter_count;
};

/// An array of fixed room that goes on counting when it is full, so that the next attempt knows how
/// much room it needs.
template <class Element>
struct Room {
    Element* elements;
    int capacity;
    int count;

    void reserve(int wanted) {
        // Zeroed, so that its pages are there before any lock is held.
        elements = new_zeroed_array<Element>(static_cast<std::size_t>(wanted));
        capacity = wanted;
        count = 0;
    }
    void release() {
        if (elements != nullptr)
            pfree(elements);
        elements = nullptr;
    }
    /// The next free place, or null where there is none; counts in both cases.
    Element* next() {
        Element* place = count < capacity ? &elements[count] : nullptr;
        count++;
        return place;
    }
    bool overflowed() const { return count > capacity; }
};

struct LockCopy {
    Room<CopiedLock> locks;
    Room<CopiedHolder> holders;
    Room<CopiedWaiter> waiters;
    uint64 locks_held_ns; // how long the partition locks were held

    void release() {
        locks.release();
        holders.release();
        waiters.release();
    }
};

/// How many processes wait for a heavyweight lock and for a safe snapshot, looked at without a
/// lock.
struct WaitCounts {
    int heavyweight;
    int safe_snapshot;
};

/// On the way it has the processor load what copy_locks() is going to read.
WaitCounts count_waits();

/// Does it wait for a safe snapshot? Looked at without a lock.
bool waits_for_safe_snapshot(const PGPROC* proc);

/// The process that stands for another in the graph: its lock group's leader. A leader that has
/// ended before its workers has no pid any more; its member's own says more than 0. Certain only
/// while the partition locks are held.
CopiedSession copy_session(const PGPROC* leader, const PGPROC* member);

/// Takes the copy, in the current memory context. May ereport out of memory, never under a lock.
///
/// \param copy              all zero
/// \param expected_waiters  as count_waits() has counted them: with luck, once is enough
void copy_locks(int expected_waiters, LockCopy* copy);

} // namespace lockguard::pg
