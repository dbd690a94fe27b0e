// The order of lock modes: which one stands for which.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Does who holds `mode` lack nothing of what `other` gives? So it is if `mode` conflicts with all
/// that `other` conflicts with, by PostgreSQL's own table of conflicts (LockMethodData's
/// conflictTab; lock.c). The numbers of the modes are no such order: ShareLock does not keep out
/// another ShareLock, as ShareUpdateExclusiveLock does, which does not keep out a writer.
bool covers(LOCKMODE mode, LOCKMODE other);

} // namespace lockguard::pg
