// What is locked, in words. Looks names up without ever waiting for a lock: a viewer of lock
// trouble must not become part of it, not even while somebody holds pg_class.
#pragma once

#include "pg/compat.h"

namespace lockguard::pg {

/// Shows whether catalogs can be read now without waiting, and keeps them so until close.
/// Value-initialised it has no names at all: for text that is read in any database.
struct NameLookup {
    Oid database;     // that has the names; objects of others are OIDs. InvalidOid: of none
    bool relations;   // pg_class and pg_namespace
    bool globals;     // pg_database and pg_authid
    bool memberships; // pg_auth_members, and those of globals: who may see what
};

/// Takes ACCESS SHARE on the catalogs conditionally; what is not to be had is left out. Needs a
/// transaction. May ereport.
NameLookup open_name_lookup();
/// Gives the locks back.
void close_name_lookup(NameLookup lookup);

/// What a lock tag stands for: "public.users" for a relation of the current database,
/// "tuple (0,3) of public.users", "transaction 4711", "relation 16402 of database 5" and so on.
/// Names no object of another database than the look-up's. In the current memory context.
const char* locked_object_text(const LOCKTAG& tag, NameLookup lookup);

/// Names, or null where gone or not to be had now. In the current memory context.
const char* database_name(Oid database, NameLookup lookup);
const char* role_name(Oid role, NameLookup lookup);

/// The identifier and the time of a prepared transaction. Returns false where it is gone. gid is
/// allocated in the current memory context.
struct PreparedTransaction {
    const char* gid;
    TimestampTz prepared_at;
};
bool find_prepared_transaction(TransactionId xid, PreparedTransaction* found);

/// Command tag that a query text begins with, such as "ALTER TABLE", after any BEGIN and SET; null
/// where it does not begin with one. Gives away nothing else of the text.
const char* leading_command(const char* query);

} // namespace lockguard::pg
