// Words for a victim: why it is ended, from the process that ends it to the one that is ended.
#pragma once

#include "shmem/segment.h"

namespace lockguard::pg {

/// Room for the DETAIL that a victim's client reads; longer text is cut.
inline constexpr std::size_t kNoticeDetailBytes = 256;

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

extern const SharedPart kTerminationNoticesPart;

} // namespace lockguard::pg
