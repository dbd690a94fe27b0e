// What statements that wait at low priority show of their waits: each backend writes on a slot of
// its own, everybody reads.
#pragma once

#include "shmem/segment.h"

namespace lockguard::pg {

/// What a statement that waits at low priority does at the moment.
enum class WaitPhase : uint8 {
    trying,      // takes its locks, if they are free
    waiting,     // sleeps until a holder's transaction ends
    backing_off, // sleeps a little: nobody who holds the lock was found
    queued,      // stands in the queue of the lock, for a moment
    running,     // has all locks that it knows of, and works
    terminating, // ends the sessions that hold the lock
};

/// A statement that waits at low priority, as others may see it: outside of the queue of the lock
/// that it is after, so that the lock manager knows nothing of it.
struct LowPriorityWait {
    int pid;
    // Of its transaction: with pid, what makes it certain. Invalid where the session goes from one
    // to the next, for a moment.
    LocalTransactionId lxid;
    Oid database;
    Oid role; // the authenticated one
    CommandTag command;
    bool lock_known;        // which lock was not to be had
    LOCKTAG tag;            // if lock_known
    LOCKMODE mode;          // if lock_known
    TimestampTz lock_since; // if lock_known: since when it waits for this lock
    WaitPhase phase;
    bool against_wraparound; // a holder is an autovacuum worker that does not give way
    uint32 attempts;
    TimestampTz started_at;
    TimestampTz deadline;  // 0 where there is none
    TimestampTz phase_end; // the latest end of this phase; 0 where it is open
    int64 longest_stall;   // µs: nobody was kept waiting longer than this
};

/// Shows this backend's wait, in place of what it showed before. Takes a spinlock for the time of
/// copying; never ereports. Without shared memory it does nothing.
void publish_low_priority_wait(const LowPriorityWait& wait);

/// Shows nothing any more. Never ereports.
void withdraw_low_priority_wait();

/// Does this backend show one?
bool shows_low_priority_wait();

/// The wait of that PGPROC, where it has one. A slot that a process has left behind is not
/// believed: its pid and transaction must still be those of the PGPROC. Nor is a lock that no lock
/// manager knows: it comes back as one that is not known. Never ereports.
bool read_low_priority_wait(int procno, LowPriorityWait* wait);

extern const SharedPart kWaitBoardPart;

} // namespace lockguard::pg
