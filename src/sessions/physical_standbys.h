// Is a physical standby attached, as far as this server can see?
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Does a walsender send WAL as such: to a standby, to pg_receivewal? (A base backup is not meant,
/// nor a logical subscriber. A standby that is fed from an archive can't be seen.) False where WAL
/// has nothing that a standby could lock (wal_level = minimal). Takes each walsender's spinlock,
/// and ProcArrayLock. Never ereports.
bool has_physical_standby();

} // namespace lockguard::pg
