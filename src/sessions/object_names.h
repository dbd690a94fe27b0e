// What is locked, in words. Looks names up without waiting for a lock: a viewer of lock trouble
// must not become part of it, not even while somebody holds pg_class.
//
// So the catalogs that a look-up can read are locked conditionally before, each with the index that
// it is read through, and what can't be had is left out. Two things are out of reach:
// - The statement that calls us. The server reads pg_proc, pg_type, pg_authid and others to parse,
//   permit and run it, as any statement, where this session has not done so before.
// - What this session knows of a catalog itself (its relation cache). Where it was told to forget
//   that, by VACUUM FULL, REINDEX or ANALYZE of that very catalog, it reads it again from pg_class,
//   pg_attribute and others, and waits for whoever holds those. A process without a database, such
//   as the worker, never does: of shared catalogs it needs no more than it has had at its start.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Shows whether catalogs can be read now without waiting, and keeps them so until close.
/// Value-initialised it has no names at all: for text that is read in any database.
struct NameLookup {
    Oid database;     // that has the names; objects of others are OIDs. InvalidOid: of none
    bool relations;   // pg_class and pg_namespace
    bool globals;     // pg_database and pg_authid
    bool memberships; // pg_auth_members, and those of globals: who may see what, and who is who
    bool types;       // pg_type: prepared transactions
};

/// Takes ACCESS SHARE on the catalogs conditionally; what is not to be had is left out: all of it
/// where an error has left this process with the lock on a relation's extension. Needs a
/// transaction. May ereport.
NameLookup open_name_lookup();
/// Gives the locks back.
void close_name_lookup(NameLookup lookup);

/// What a lock tag stands for: "public.users" for a relation of the current database,
/// "tuple (0,3) of public.users", "transaction 4711", "relation 16402 of database 5" and so on.
/// Names no object of another database than the look-up's. In the current memory context.
const char* locked_object_text(const LOCKTAG& tag, NameLookup lookup);

/// Names, or null where gone or not to be had now. Valid text (boundary/valid_text): they may have
/// been given in a database of another encoding. In the current memory context.
const char* database_name(Oid database, NameLookup lookup);
const char* role_name(Oid role, NameLookup lookup);

/// The identifier and the time of a prepared transaction. Returns false where it is gone. Where
/// that is not to be had now, gid is null and prepared_at 0. gid is valid text, allocated in the
/// current memory context.
struct PreparedTransaction {
    const char* gid;
    TimestampTz prepared_at;
};
bool find_prepared_transaction(TransactionId xid, NameLookup lookup, PreparedTransaction* found);

} // namespace lockguard::pg
