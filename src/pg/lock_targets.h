// Which locks on relations a statement is known to need before it runs.
//
// Not all that it will take: only those that follow from its words (the relations it names, and
// their children where it goes down to them). What else turns up inside the statement is learned
// from the attempt.
#pragma once

#include <span>

#include "pg/compat.h"

namespace lockguard::pg {

struct LockTarget {
    Oid relation;
    LOCKMODE mode;
};

struct LockTargets {
    std::span<const LockTarget> locks; // in the order in which the statement would take them
    bool only_private;   // it names relations, and nobody else can know of any of them
    bool only_temporary; // ... and all of them are temporary ones of this session
};

/// Looks the names up, without taking any lock, and checks that the current user may have these
/// locks: nobody can make the guard wait for, or hold, a lock that PostgreSQL would refuse him.
/// Where a name is not found, is of the wrong kind, or is not the user's, the result is empty: the
/// statement itself will say what is wrong with it.
///
/// Names can mean something else by the time the locks are held: look them up again then.
/// Allocated in the current memory context. May ereport, as the look-up of a name does.
LockTargets find_lock_targets(const Node* statement);

} // namespace lockguard::pg
