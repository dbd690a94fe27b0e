// Signals to sessions that hold a lock, each to the session that was meant, in the transaction that
// was meant, or to nobody.
//
// Lock order: the session's fpInfoLock, LW_SHARED; then the spinlock of the notice.
#pragma once

#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// Is the process of that session still in that transaction? The caller holds its fpInfoLock: to
/// end its transaction, a process must first release its virtual transaction id, for which it needs
/// that lock exclusive. Until then its pid is in nobody else's hands. False for what has no process
/// or no transaction.
bool is_in_transaction(const SessionId& session);

/// Sends SIGTERM as pg_terminate_backend() does: to the session's process group, where it has one,
/// so that a shell that it has started ends as well. The caller is certain whose pid it is.
bool send_sigterm(int pid);

/// Sends SIGINT in the same way, as pg_cancel_backend() does.
bool send_sigint(int pid);

/// Leaves word for the session (shmem/termination_notice) and sends it SIGTERM. The caller holds
/// the lock under which it has made certain that it is in that transaction. Returns whether the
/// operating system has taken the signal.
bool leave_word_and_terminate(const SessionId& session, const char* detail);

/// Asks the process to cancel what it does (SIGINT), if it is still in that transaction. Returns
/// whether it was. Never ereports. Takes the process's fpInfoLock.
bool cancel_transaction(const SessionId& session);

/// Ends the session, if it is still in that transaction, and leaves word of the reason for it.
/// Checks no privileges. Returns whether it was sent SIGTERM. Never ereports. Takes the process's
/// fpInfoLock.
bool terminate_transaction(const SessionId& session, const char* detail);

} // namespace lockguard::pg
