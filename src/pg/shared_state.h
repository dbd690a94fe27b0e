// Everything of ours in shared memory. It exists only where the library is in
// shared_preload_libraries; each part says which lock guards it.
#pragma once

#include "pg/compat.h"

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
