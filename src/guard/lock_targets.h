// Which locks on relations a statement is known to need before it runs.
//
// Not all that it will take: only those that follow for certain from its words and the catalogs
// (the relations it names, their children where it goes down to them, the other table of a foreign
// key). What else turns up inside the statement is learned from the attempt. Nothing is here that
// the statement would not lock if it succeeds, nor in a stronger mode.
#pragma once

#include <span>

#include "boundary/compat.h"
#include "guard/lock_target.h"

namespace lockguard::pg {

struct LockTargets {
    /// In the order in which the statement would take them. A relation is here twice if it is
    /// needed in two modes of which neither covers the other.
    std::span<const LockTarget> locks;
    /// The statement names relations, and nobody but this transaction can have a lock on any: they
    /// are temporary tables of this session, or were made in this transaction. (Else those are left
    /// out of `locks`.)
    bool only_private;
    /// ... and all of them are temporary tables.
    bool only_temporary;
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
