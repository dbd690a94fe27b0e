// One consistent copy of the lock manager's wait-for graph.
//
// A statement that waits at low priority stands in no queue of the lock that it is after: it sleeps
// on the transaction of one holder after the other, or not at all. Where it shows its wait
// (shmem/wait_board), the graph has that wait instead: for the lock itself, on everybody who holds
// it. So its blockers are not those of pg_blocking_pids(), which knows of the one sleep alone. Who
// holds the lock is asked a moment after the copy was taken. A wait whose lock is not known is not
// in the graph.
//
// Lock order: see locks/lock_copy; the locks of those asked afterwards are taken one at a time.
#pragma once

#include "core/lock_graph.h"
#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// What the lock manager and the process array say of one session of the graph, beyond
/// core::Session.
struct SnapshotSession {
    SessionId id; // procno of the lock group leader's PGPROC; beyond allProcCount, with pid 0, for
                  // a prepared transaction
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
    core::LockTable table;     // the waits are indices into `waits`
    SnapshotSession* sessions; // parallel to table.sessions
    SnapshotWait* waits;
    int wait_count;
    uint64 locks_held_ns; // how long the partition locks were held
};

/// The snapshot, and who blocks whom in it.
struct WaitGraph {
    LockSnapshot snapshot;
    core::LockGraph graph;
};

/// What a wait for that lock counts for.
core::WaitKind wait_kind_of(const LOCKTAG& tag);

/// What a session waits for, as a number: the same for those that want the same mode of the same
/// type of lock. 0 where it does not wait.
uint32 wants_of(const LockSnapshot& snapshot, const SnapshotSession& session);

/// Is there anybody who waits for a heavyweight lock, in its queue or at low priority, or for a
/// safe snapshot? Looks without a lock: a wait that begins or ends in this very moment may be
/// missed or reported.
bool anybody_waits();

/// Takes the snapshot. Everything is allocated in the current memory context. Returns false where
/// nobody waits. May ereport out of memory, never under a lock.
bool take_lock_snapshot(LockSnapshot* snapshot);

/// The same with the edges.
bool take_wait_graph(WaitGraph* graph);

} // namespace lockguard::pg
