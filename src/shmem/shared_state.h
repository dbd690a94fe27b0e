// Everything of ours in shared memory. It exists only where the library is in
// shared_preload_libraries; each part says which lock guards it.
#pragma once

#include "core/blocker_policy.h"
#include "boundary/compat.h"

namespace lockguard::pg {

/// Room for the DETAIL that a victim's client reads; longer text is cut.
inline constexpr std::size_t kNoticeDetailBytes = 256;

/// Asks for the shared memory and arranges for its creation. Called once, from _PG_init, while
/// shared_preload_libraries are loaded.
void set_up_shared_state();

/// Was the library loaded early enough to have its shared memory?
bool shared_state_available();

/// Raises 55000 (object_not_in_prerequisite_state), with a HINT that names
/// shared_preload_libraries, where the shared memory does not exist.
void require_shared_state();

// ---- Protected sessions

/// What a session says of itself with pg_lockguard.protected.
enum class Protection {
    as_server, // nothing: what the configuration files say holds
    off,
    on,
};

/// Tells other processes what this session says of itself. Never fails; without shared memory, or
/// while this process has no PGPROC, it does nothing.
void publish_protection(Protection protection);

/// The same, of pg_lockguard.protected as it has been assigned. What the session has in common with
/// the whole server others know themselves; that also makes it right in a session that has not
/// assigned anything yet.
///
/// \param whole_server  the value comes from where every process of the server reads the same
void protection_changed(bool whole_server, bool value);

/// What a session has published. Never ereports.
///
/// \param session_start  when the session began, as in its status: another one, that had the same
///                       PGPROC before, is not mistaken for it
Protection protection_of(int procno, TimestampTz session_start);

/// Tells other processes what the configuration files say of pg_lockguard.protected, as this
/// process has read them: one that is in no database and sets nothing itself.
void publish_server_protection();

/// What holds for a session that says nothing of itself. Where nobody has published it, what this
/// process has.
bool protected_by_server();

// ---- Imported snapshots

/// Tells other processes that this backend's present transaction reads with an imported snapshot.
/// Nobody need withdraw that: it holds for this transaction alone. Never fails; without shared
/// memory it does nothing.
void publish_imported_snapshot();

/// Has the session published that of this very transaction? Never ereports, takes no lock.
bool has_imported_snapshot(int procno, int pid, LocalTransactionId lxid);

// ---- The worker

/// Says which process is the worker, so that others can wake it: this one, until it exits.
void announce_worker();

/// Wakes the worker, where there is one and it looks at all: somebody begins to wait. It looks at
/// once, and so knows when it must look again. Costs a few instructions; never ereports.
void wake_worker();

/// What limits the worker, over its restarts: it alone uses them. Null where not preloaded.
struct WorkerFuses {
    core::TerminationFuse terminations;
    core::RequestFuse requests[FLEXIBLE_ARRAY_MEMBER]; // by the procno of the process that waits
};
/// \param rehearsal  those of the worker that only logs what it would do
WorkerFuses* worker_fuses(bool rehearsal);

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

/// The wait of that PGPROC, where it has one. A slot that a process has left behind is not
/// believed: its pid and transaction must still be those of the PGPROC. Nor is a lock that no lock
/// manager knows: it comes back as one that is not known. Never ereports.
bool read_low_priority_wait(int procno, LowPriorityWait* wait);

// ---- Words for a victim

/// Leaves word for a session that is about to be sent SIGTERM: why it is ended. A later notice for
/// the same PGPROC replaces an earlier one. Takes a spinlock for the time of copying the text;
/// never ereports, so that it may be called under an LWLock. Without shared memory it does nothing.
///
/// \param procno  of the victim's PGPROC
/// \param lxid    of the transaction that was judged: the notice is for nobody else
void post_termination_notice(int procno, int pid, LocalTransactionId lxid, const char* detail);

/// Takes the notice back, where it is still the one for this session and transaction.
void withdraw_termination_notice(int procno, int pid, LocalTransactionId lxid);

/// Takes the notice for this very session and transaction out of its slot. Returns false where
/// there is none. Never ereports.
bool take_termination_notice(int procno, int pid, LocalTransactionId lxid,
                             char (*detail)[kNoticeDetailBytes]);

} // namespace lockguard::pg
