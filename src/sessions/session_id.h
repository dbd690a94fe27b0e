// Which session, in which transaction: so that one which has come since, into the same PGPROC or
// under the same pid, is not mistaken for it.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

struct SessionId {
    int procno; // of its PGPROC
    int pid;
    LocalTransactionId lxid = InvalidLocalTransactionId; // of its transaction

    bool operator==(const SessionId&) const = default;
};

/// That of a process, now. Read without a lock: it is certain only where something else keeps the
/// process in its transaction.
inline SessionId session_of(const PGPROC* proc) {
    return {compat::procno_of(proc), proc->pid, compat::lxid_of(proc)};
}

/// The session whose process is in that virtual transaction, now. False where the transaction has
/// ended, or was prepared, so that it has no process. Read without a lock: who acts on it looks
/// again (sessions/signals).
bool find_session(VirtualTransactionId vxid, SessionId* session);

/// Who answers for a session: its lock group's leader, where it is a parallel worker and the leader
/// is still there; else itself. Read without a lock.
SessionId leading_session(const SessionId& session);

} // namespace lockguard::pg
