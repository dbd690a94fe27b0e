// Words for a session whose statement is cancelled: why. From the process that cancels it to the
// one that is cancelled, which adds them to its own error (worker/victim_notice).
//
// One place for each PGPROC that can belong to a client backend, with a spinlock that is held for a
// copy and nothing else. A notice names the very statement, so what a cancel that came too late has
// left behind is nobody's.
#pragma once

#include "shmem/segment.h"

namespace lockguard::pg {

/// Room for each of the texts; longer text is cut.
inline constexpr std::size_t kCancelTextBytes = 320;

/// Plain data.
struct CancelNotice {
    int pid;                 // of the session; 0 where there is no notice
    LocalTransactionId lxid; // of its transaction
    TimestampTz statement;   // since when it has been active, as in its status
    char message[128];       // in place of the server's own; may be empty, as the others
    char detail[kCancelTextBytes];
    char hint[kCancelTextBytes];
};

/// Leaves the notice, in place of an earlier one for the same PGPROC. Never ereports, so it may be
/// called under an LWLock. Without shared memory it does nothing.
void post_cancel_notice(int procno, const CancelNotice& notice);

/// Takes the notice back, where it is still the one for this statement.
void withdraw_cancel_notice(int procno, const CancelNotice& notice);

/// Takes the notice for this statement out of its place. Returns false where there is none. Never
/// ereports.
bool take_cancel_notice(int procno, int pid, LocalTransactionId lxid, TimestampTz statement,
                        CancelNotice* notice);

extern const SharedPart kCancelNoticesPart;

} // namespace lockguard::pg
