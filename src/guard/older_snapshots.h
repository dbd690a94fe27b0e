// DETACH PARTITION … FINALIZE, which has the partition locked while it waits for all snapshots that
// are older than its own: so those that may last are waited for before, with nothing locked.
#pragma once

#include "core/time.h"

#include "boundary/compat.h"

namespace lockguard::pg {

/// Is it a statement of that kind?
bool waits_for_older_snapshots(const Node* statement);

/// A transaction of this database whose snapshot is no younger than one that this transaction would
/// get now, and that has lasted for longer than `age`: younger ones are expected to end soon, and
/// where there is no gap between them there always is one. Returns false where there is none.
///
/// Holds no snapshot of its own afterwards that it has not held before. Allocates in the current
/// memory context. May ereport.
bool find_older_snapshot(core::Microseconds age, VirtualTransactionId* transaction);

} // namespace lockguard::pg
