// The last check before a session is ended: the worker is certain that it ends that one.
//
// Between a look at the server and a signal, the session may commit, go on, exit, and leave its pid
// to another. terminate_blocker() closes that gap: it looks again while it holds the one lock
// without which the session cannot give its blocking lock back.
//
// For a request that stands in no queue, the lock without which the session can't end its
// transaction takes that place.
//
// Lock order: the partition lock of the awaited lock, or the session's fpInfoLock, LW_SHARED; then
// the spinlock of the notice or of the published wait.
#pragma once

#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// The session that was judged, in the transaction and the state in which it was judged.
struct BlockerIdentity {
    SessionId session;       // of a prepared transaction its xid in the place of lxid
    TimestampTz state_start; // since when it has been idle in transaction, or active
    // Not idle, but stalled: it reads from its client in the midst of a statement. Then its status
    // must not have changed at all.
    bool stalled = false;
    int change_count = 0;
    bool active = false; // at work on the statement that began at state_start
};

/// The request that it blocks: somebody waits for a mode of a lock.
struct RequestIdentity {
    int procno; // of the process that waits
    int pid;    // of its session: where it is a parallel worker, its leader's
    LOCKTAG tag;
    LOCKMODE mode;
    bool low_priority; // outside of the lock's queue, as it shows on the wait board
    // Of a background process: a client that waits behind it, without whom it would not count.
    int client_procno = -1; // of the process that waits; pid is that of its session
    int client_pid = 0;     // 0 where no client need wait
};

enum class TerminationResult {
    signaled,          // or would have been, in a rehearsal
    request_gone,      // nobody waits for that any more
    lock_released,     // the session holds no conflicting mode any more
    other_transaction, // the session, or its transaction, is another
    no_longer_idle,    // it has gone on, or has been active since
    no_client_waits,   // the client behind the request of a background process has gone on
    signal_failed,     // the operating system refused
};

/// Sends SIGTERM to the session, and leaves word of the reason for it (sessions/signals),
/// if at this moment the request still waits, and the session still holds a conflicting mode, in
/// the same transaction, in the same state of being idle in transaction (or stalled). Otherwise it
/// does nothing and says what has changed. Checks no privileges. Ereports, out of memory, for a
/// request at low priority only, and before it has done anything.
///
/// \param detail  what the victim's client is to read
TerminationResult terminate_blocker(const BlockerIdentity& blocker, const RequestIdentity& request,
                                    const char* detail);

/// The same without notice and signal: would it do it?
TerminationResult rehearse_termination(const BlockerIdentity& blocker,
                                       const RequestIdentity& request);

/// Does the session still block the request: does that still wait, and does the session still hold
/// a conflicting mode, in the same transaction? What it does meanwhile is not asked. `signaled`
/// stands for yes. Takes the session's fpInfoLock, and under it what check_blocks() takes. Never
/// ereports.
TerminationResult blocks(const BlockerIdentity& blocker, const RequestIdentity& request);

/// The same for a caller that holds the session's fpInfoLock, by which it keeps it in its
/// transaction. What another process holds for the session, as a member of its lock group, counts
/// where the request stands in the lock's queue. Takes the lock's partition lock or the spinlock of
/// a published wait. Never ereports.
TerminationResult check_blocks(const BlockerIdentity& blocker, const RequestIdentity& request);

/// What has become of a session that would have been ended.
enum class Outcome {
    still_blocks,
    transaction_over, // committed, rolled back, or the session has ended
    went_on,          // it has been active since, in the same transaction
    lock_released,    // it no longer holds the lock, in the same transaction and state
    request_gone,     // it would still block, but nobody waits for that any more
};
Outcome outcome_of(const BlockerIdentity& blocker, RequestIdentity request);

/// The result in words, after "PID n is left alone: ".
const char* termination_result_text(TerminationResult result);

} // namespace lockguard::pg
