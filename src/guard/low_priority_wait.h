// How a session waits for a lock without standing in its queue: on the transactions of those that
// hold it.
//
// Each sleep is a wait for a virtual transaction id, as CREATE INDEX CONCURRENTLY does it. It ends
// when that transaction ends, shows in pg_locks, is seen by the deadlock detector, can be
// cancelled, and nobody queues behind it.
#pragma once

#include "core/wait_policy.h"

#include <span>

#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// A transaction that holds a conflicting mode of the awaited lock.
struct AwaitedHolder {
    VirtualTransactionId vxid;
    int procno; // -1 for a prepared transaction
    int pid;    // 0 for a prepared transaction
    BackendType type;
    bool against_wraparound; // an autovacuum worker that does not give way
    TimestampTz xact_start;  // 0 where unknown
};

/// Its session; for a prepared transaction that of nobody.
inline SessionId session_of(const AwaitedHolder& holder) {
    return {holder.procno, holder.pid, holder.vxid.localTransactionId};
}

/// All of them, the oldest first: of those who are like the others it ends next, and who is not is
/// likely to last longest.
struct AwaitedHolders {
    std::span<const AwaitedHolder> holders;
    core::HoldersSeen present; // the same, as the policy wants it
    bool against_wraparound;   // one of them is
};

/// Is the server's deadlock check to run where a wait of the guard's own lasts for
/// deadlock_timeout? It locks the whole lock table, so it is not run once a second for nothing;
/// rings are looked for by locks/waiters_behind. At once is for waits that go on where others have
/// ended.
enum class DeadlockCheck { no, yes, at_once };

/// Runs wait(argument), a wait in the lock manager that is the guard's own and not one that
/// PostgreSQL would have: the session's lock_timeout is not for it, nor is log_lock_waits. Once it
/// has lasted for `limit` (µs, more than 0) it ends with an error for which is_wait_limit() is
/// true.
void run_own_wait(core::Microseconds limit, DeadlockCheck check, void (*wait)(const void*),
                  const void* argument);

/// Of its transaction, now; kUnknownTime where that is unknown.
core::Microseconds age(const AwaitedHolder& holder);

/// Is one of them in that transaction?
bool is_among(std::span<const AwaitedHolder> holders, VirtualTransactionId vxid);

/// Does anybody but this session hold a mode that conflicts? Pure waiters do not count. Nor does a
/// transaction that is just ending: it may hold the lock for another moment.
bool has_holders(const LOCKTAG& tag, LOCKMODE mode);

/// Does nobody but this session hold a mode that conflicts, besides those who hold such a mode of
/// the other lock, too? By two looks, one after the other: in both directions it may be wrong for
/// transactions that begin or end meanwhile.
bool has_no_holders_besides(const LOCKTAG& tag, LOCKMODE mode, const LOCKTAG& other,
                            LOCKMODE other_mode);

/// Who holds it. Allocated in the current memory context. Reads no catalog.
AwaitedHolders look_at_holders(const LOCKTAG& tag, LOCKMODE mode);

/// Sleeps until the transaction has ended, at most `timeout` (µs, more than 0). Returns whether it
/// has. Ereports as any wait for a lock does: 57014 when cancelled, 40P01 in a deadlock.
bool sleep_until_end(VirtualTransactionId vxid, core::Microseconds timeout,
                     DeadlockCheck check = DeadlockCheck::no);

/// Sleeps for that long (ms), or until something else wakes this process up.
void sleep_a_little(int timeout);

/// Ends this session as a lost connection does (FATAL, 08006) where its client has gone, as
/// client_connection_check_interval has it. Looks at the socket and reads nothing. Serves whatever
/// else is pending, too, and so may ereport. Does nothing on platforms that can't tell.
void check_client();

/// Lets go of the portal's snapshot while a statement waits, where nobody but the statement itself
/// needs it, so that VACUUM is not held back; and of the catalogs' in any case. Returns whether the
/// portal's must be restored.
bool release_portal_snapshot();

} // namespace lockguard::pg
