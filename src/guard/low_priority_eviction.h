// pg_lockguard.ddl_on_timeout = terminate: a statement whose patience is over ends those who hold
// its locks.
#pragma once

#include <span>

#include "guard/low_priority_account.h"
#include "guard/needed_locks.h"

namespace lockguard::pg {

/// Ends the sessions that hold a mode of one of these locks that conflicts, now: each once, a
/// parallel query by its leader, an autovacuum by a cancel. Where one of them may not be ended,
/// nobody is, and the result says why, in words that follow "Nobody was ended: "; else it is null.
///
/// The rule is that of pg_terminate_backend(), for the role whose decision it is: a superuser ends
/// superusers' sessions. Only sessions of clients are ended, idle or at work, and none that is
/// exempt (sessions/exemptions: settings, or a shared snapshot). Needs a transaction. Allocates in
/// the current memory context.
///
/// \param role        with whose rights
/// \param decided_by  the pid of who has decided so for the statement; 0: ddl_on_timeout
/// \param lacked      where not null: whether a right of that role's is what is lacking
const char* end_holders(std::span<const NeededLock> locks, const WaitAccount& account, Oid role,
                        int decided_by, bool* lacked = nullptr);

} // namespace lockguard::pg
