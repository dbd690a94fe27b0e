// Which transactions read with a snapshot that they have imported from another. No lock: each is
// one atomic word.
#pragma once

#include "shmem/segment.h"

namespace lockguard::pg {

/// Tells other processes that this backend's present transaction reads with an imported snapshot.
/// Nobody need withdraw that: it holds for this transaction alone. Never fails; without shared
/// memory it does nothing.
void publish_imported_snapshot();

/// Has the session published that of this very transaction? Never ereports, takes no lock.
bool has_imported_snapshot(int procno, int pid, LocalTransactionId lxid);

extern const SharedPart kImportedSnapshotsPart;

} // namespace lockguard::pg
