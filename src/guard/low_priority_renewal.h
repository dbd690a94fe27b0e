// A statement that waits at low priority in a transaction of its own does not keep that for as long
// as it waits: some tools (pg_repack) poll for the end of all transactions that they have seen,
// while they hold what this statement waits for.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Can the transaction, in which nothing has been done, be ended and another begun? Not where
/// something of somebody else's would not outlive it.
///
/// \param needed  a memory context that must
bool can_renew_transaction(MemoryContext needed);

/// Does so. To all who look at it, it is the same statement since the same time, but what it shows
/// of its wait is to be published anew. Leaves the new transaction's memory context current.
void renew_transaction();

} // namespace lockguard::pg
