// One consistent copy of the lock manager's wait-for graph.
//
// A statement that waits at low priority stands in no queue of the lock that it is after: it sleeps
// on the transaction of one holder after the other, or not at all. Where it shows its wait
// (shmem/wait_board), the graph has that wait instead: for the lock itself, on everybody who holds
// it. So its blockers are not those of pg_blocking_pids(), which knows of the one sleep alone. Who
// holds the lock is asked a moment after the copy was taken. A wait whose lock is not known is not
// in the graph.
//
// Lock order: all partition locks of the lock table, LW_SHARED, in index order; nothing else is
// taken or allocated while they are held, and no error can be raised.
#pragma once

#include "core/lock_graph.h"
#include "boundary/compat.h"

namespace lockguard::pg {

/// What the lock manager and the process array say of one session of the graph, beyond
/// core::Session.
struct SnapshotSession {
    int procno; // of the lock group leader's PGPROC; beyond allProcCount for a prepared transaction
    int pid;    // 0 for a prepared transaction
    LocalTransactionId lxid;
    TransactionId prepared_xid; // of a prepared transaction, else invalid
    Oid database;
    Oid role; // the authenticated one; it does not follow SET ROLE
    uint32 wait_event_info;
    int first_wait; // index into LockSnapshot::waits, or -1 where it does not wait
};

/// What one session waits for.
struct SnapshotWait {
    core::SessionIndex session;
    int procno; // of the process that waits: a parallel worker's own, not its leader's
    LOCKTAG tag;
    core::LockMode mode;
    TimestampTz wait_start;
    bool safe_snapshot; // waits for a safe snapshot; tag and mode mean nothing
    bool low_priority;  // waits outside of the lock's queue
    bool holds_steady;  // else it may hold, for a moment, what it gives back at once
};

struct LockSnapshot {
    core::LockTable table;        // sessions' xact_start is unknown as yet: the caller fills it in;
                                  // the waits are indices into `waits`
    core::Session* core_sessions; // table.sessions, writable
    SnapshotSession* sessions;    // parallel to table.sessions
    SnapshotWait* waits;
    int wait_count;
    uint64 locks_held_ns; // how long the partition locks were held
};

/// What a wait for that lock counts for.
core::WaitKind wait_kind_of(const LOCKTAG& tag);

/// Is there anybody who waits for a heavyweight lock, in its queue or at low priority, or for a
/// safe snapshot? Looks without a lock: a wait that begins or ends in this very moment may be
/// missed or reported.
bool anybody_waits();

/// Takes the copy. Everything is allocated in the current memory context. Returns false where
/// nobody waits. May ereport out of memory, never under a lock.
bool take_lock_snapshot(LockSnapshot* snapshot);

} // namespace lockguard::pg
