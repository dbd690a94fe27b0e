// Who holds a lock that somebody wants, told to somebody who may see less than everything.
#pragma once

#include "core/words/culprits.h"

#include <span>

#include "boundary/compat.h"
#include "locks/wait_sampler.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

/// The roles that must both be allowed to see what is told: inside a SECURITY DEFINER function the
/// text goes on to its caller, who may be allowed less than its owner; and the other way round.
struct Reader {
    Oid current_user;
    Oid outer_user; // as the session's SET ROLE left it
};

/// Who runs the present statement.
Reader current_reader();

/// The sessions and prepared transactions, other than this session, that hold a lock which
/// conflicts with the one waited for (wait.lock_known): the oldest transaction first, then by pid.
/// Each once, a parallel query under its leader's pid. Those that only queue are left out, and so
/// are those that have begun both their transaction and their statement since wait.started_at: they
/// came later, and were let in when the wait ended.
///
/// Cheap where a transaction holds the lock. Where none does, it copies the whole lock table, as
/// pg_locks does, to find a session that keeps the lock without a transaction.
///
/// Needs a transaction. Everything is allocated in the current memory context. May ereport. Takes
/// the lock manager's partition locks, ProcArrayLock and TwoPhaseStateLock, one after the other.
std::span<const core::Culprit> find_lock_culprits(const AwaitedLock& wait, const Reader& reader,
                                                  NameLookup lookup);

} // namespace lockguard::pg
