// What guarded statements do while they run, where that takes long: each backend writes on a slot
// of its own, everybody reads.
#pragma once

#include "core/heavy_work.h"

#include "shmem/segment.h"

namespace lockguard::pg {

/// The latest heavy work that a statement has begun. (Nothing tells when such work is done and
/// something light follows.)
struct RunningWork {
    int pid;
    LocalTransactionId lxid; // of its transaction: with pid, what makes it certain
    Oid database;
    Oid role; // the authenticated one
    CommandTag command;
    TimestampTz statement_began;
    TimestampTz began;
    core::HeavyKind kind;
    Oid relation; // InvalidOid where unknown
    int64 size;   // bytes that are read or written; negative where unknown
};

/// Shows what this backend's statement has begun, in place of what it showed before. Takes a
/// spinlock for the time of copying; never ereports. Without shared memory it does nothing.
void publish_running_work(const RunningWork& work);

/// Shows nothing any more. Never ereports.
void withdraw_running_work();

/// That of a PGPROC, where it has any, and is still in that transaction. Never ereports.
bool read_running_work(int procno, RunningWork* work);

extern const SharedPart kRunningWorkPart;

} // namespace lockguard::pg
