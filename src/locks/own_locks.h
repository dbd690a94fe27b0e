// The locks on relations that this process has, as the lock manager knows them.
#pragma once

#include <span>

#include "boundary/compat.h"

namespace lockguard::pg {

struct OwnLock {
    Oid relation; // of this database, or a shared one
    bool shared;
    LOCKMASK modes; // at least one
};

/// Shows each of them to visit(argument, lock); a relation may come several times, each time with
/// some of its modes. visit() runs with an LWLock held: it copies plain data, and that is all.
///
/// Takes this process' fpInfoLock, then the partition locks of the lock table, LW_SHARED, one at a
/// time. Never ereports: for error paths too, but not where an LWLock may be held.
void visit_own_locks(void (*visit)(void* argument, OwnLock lock), void* argument);

/// All of them, each relation once, in no order. Where there is no memory it is empty.
///
/// In the current memory context. As visit_own_locks().
std::span<const OwnLock> find_own_locks();

/// The strongest of these modes.
LOCKMODE strongest_mode(LOCKMASK modes);

} // namespace lockguard::pg
