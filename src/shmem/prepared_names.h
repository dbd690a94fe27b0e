// The identifiers of prepared transactions, by their xid: the server tells them only to processes
// that are in a database, and the worker is in none. The session that prepares a transaction says
// how it is called. Those that were prepared before a restart of the server have no name here.
//
// As many places as there can be prepared transactions. A place is claimed by changing its word,
// without a lock; it is free again when its transaction has ended.
#pragma once

#include "boundary/compat.h"
#include "shmem/segment.h"

namespace lockguard::pg {

/// PREPARE TRANSACTION with that identifier is about to run in this session.
void note_prepare(const char* gid);

/// Copies the identifier; false where it is not known.
bool find_prepared_name(TransactionId xid, char (*gid)[GIDSIZE]);

/// Arranges for names to be published. Called once, from _PG_init, where the library is preloaded.
void install_prepared_names();

extern const SharedPart kPreparedNamesPart;

} // namespace lockguard::pg
