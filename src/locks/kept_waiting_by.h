// Whom a session keeps waiting, by one look at the lock table and a record of the looks before.
#pragma once

#include "core/kept_waiting.h"

#include "boundary/compat.h"
#include "locks/lock_snapshot.h"

namespace lockguard::pg {

/// What the looks at one session have seen. Plain data.
using BehindRecord = core::KeptWaitingRecord;

struct KeptWaitingBy {
    std::uint32_t sessions;     // that are kept waiting
    core::Microseconds longest; // for so long; 0 where there are none
    // If there are any: who is for longest, and where his chain of waits ends.
    core::SessionIndex waiter; // of the snapshot's sessions
    std::uint32_t wait;        // of the snapshot's waits: the one on the session itself
};

/// What counts: clients and apply workers that stand in a queue, not whose statement is at low
/// priority itself, whatever it does at the moment; not autovacuum, walsenders, other background
/// processes. They wait, directly or through others, for what the session holds or queues for, by
/// the rule core::ChainRule::kept_waiting. Since when is in the record as well as in the result.
///
/// Work space is allocated in the current memory context; may ereport out of memory.
///
/// \param session   of the snapshot's sessions
/// \param taken_at  when the snapshot was taken
KeptWaitingBy find_kept_waiting(const LockSnapshot& snapshot, core::SessionIndex session,
                                TimestampTz taken_at, BehindRecord* record);

/// The session of that PGPROC in the snapshot, in that transaction if `lxid` is valid; else the
/// number of the snapshot's sessions: then nobody waits for it.
core::SessionIndex find_in_snapshot(const LockSnapshot& snapshot, int procno,
                                    LocalTransactionId lxid);

/// The same of the prepared transaction of that id.
core::SessionIndex find_prepared_in_snapshot(const LockSnapshot& snapshot, TransactionId xid);

} // namespace lockguard::pg
