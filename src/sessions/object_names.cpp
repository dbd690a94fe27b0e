#include "sessions/object_names.h"

#include "boundary/valid_text.h"

extern "C" {
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/pg_auth_members.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
}

namespace lockguard::pg {

namespace {

/// A catalog cache that misses reads the catalog through its index.
constexpr Oid kRelationCatalogs[] = {RelationRelationId, ClassOidIndexId, NamespaceRelationId,
                                     NamespaceOidIndexId};
constexpr Oid kGlobalCatalogs[] = {DatabaseRelationId, DatabaseOidIndexId, AuthIdRelationId,
                                   AuthIdOidIndexId};
/// A role is found by its name, too (get_role_oid).
constexpr Oid kMembershipCatalogs[] = {AuthMemRelationId, AuthMemMemRoleIndexId,
                                       AuthIdRolnameIndexId};
constexpr Oid kTypeCatalogs[] = {TypeRelationId, TypeOidIndexId};

template <std::size_t N>
void unlock_catalogs(const Oid (&catalogs)[N], std::size_t count) {
    while (count > 0)
        UnlockRelationOid(catalogs[--count], AccessShareLock);
}

/// As ConditionalLockRelationOid(), but a lock table that is full is no error: that is when
/// somebody looks who has filled it.
bool lock_catalog(Oid catalog) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, IsSharedRelation(catalog) ? InvalidOid : MyDatabaseId, catalog);
    LOCALLOCK* local;
    LockAcquireResult result = compat::take_lock_if_possible(tag, AccessShareLock, &local);
    if (result == LOCKACQUIRE_NOT_AVAIL)
        return false;
    if (result != LOCKACQUIRE_ALREADY_CLEAR) {
        AcceptInvalidationMessages();
        MarkLockClear(local);
    }
    return true;
}

template <std::size_t N>
bool lock_catalogs(const Oid (&catalogs)[N]) {
    for (std::size_t i = 0; i < N; i++) {
        if (!lock_catalog(catalogs[i])) {
            unlock_catalogs(catalogs, i);
            return false;
        }
    }
    return true;
}

/// "public.users", or null where its name is not to be had.
const char* relation_name(Oid database, Oid relation, NameLookup lookup) {
    if (!lookup.relations || (database != lookup.database && database != InvalidOid))
        return nullptr;
    char* name = get_rel_name(relation);
    if (name == nullptr)
        return nullptr;
    char* schema = get_namespace_name(get_rel_namespace(relation));
    return quote_qualified_identifier(schema, name);
}

const char* relation_text(const LOCKTAG& tag, NameLookup lookup) {
    Oid database = tag.locktag_field1;
    Oid relation = tag.locktag_field2;
    const char* name = relation_name(database, relation, lookup);
    if (name != nullptr)
        return name;
    return database == InvalidOid ? psprintf("relation %u", relation)
                                  : psprintf("relation %u of database %u", relation, database);
}

const char* object_text(const LOCKTAG& tag, NameLookup lookup) {
    Oid database = tag.locktag_field1;
    Oid catalog = tag.locktag_field2;
    Oid object = tag.locktag_field3;
    if (catalog == DatabaseRelationId) {
        const char* name = database_name(object, lookup);
        if (name != nullptr)
            return psprintf("database %s", quote_identifier(name));
    }
    if (catalog == NamespaceRelationId && database == lookup.database && lookup.relations) {
        const char* name = get_namespace_name(object);
        if (name != nullptr)
            return psprintf("schema %s", quote_identifier(name));
    }
    // A catalog's OID is the same in every database. Another table's is not: some extension may
    // lock objects of its own.
    bool same_everywhere = catalog < FirstNormalObjectId;
    const char* catalog_name =
        lookup.relations && same_everywhere ? get_rel_name(catalog) : nullptr;
    const char* of = catalog_name == nullptr ? psprintf("class %u", catalog) : catalog_name;
    if (database == lookup.database || database == InvalidOid)
        return psprintf("object %u of %s", object, of);
    return psprintf("object %u of %s of database %u", object, of, database);
}

const char* advisory_text(const LOCKTAG& tag, NameLookup lookup) {
    const char* where = tag.locktag_field1 == lookup.database
                            ? ""
                            : psprintf(" of database %u", tag.locktag_field1);
    if (tag.locktag_field4 == 1) { // one bigint key, see lockfuncs.c
        int64 key = static_cast<int64>((static_cast<uint64>(tag.locktag_field2) << 32) |
                                       tag.locktag_field3);
        return psprintf("advisory lock " INT64_FORMAT "%s", key, where);
    }
    return psprintf("advisory lock (%d, %d)%s", static_cast<int>(tag.locktag_field2),
                    static_cast<int>(tag.locktag_field3), where);
}

/// The name, which may be null, itself.
const char* made_valid(char* name) {
    if (name != nullptr)
        make_valid(name, strlen(name));
    return name;
}

/// Does this process hold a lock on the extension of a relation? Only after an error that came in
/// the moment in which that lock was granted, until the transaction is rolled back. PostgreSQL
/// takes no other lock beside it (LockAcquireExtended() asserts that), and others wait for it.
bool holds_extension_lock() {
    for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++) {
        // Without the lock: only this process itself adds to the list, or others for a relation
        // that was in its slots.
        if (compat::newest_own_proclock(MyProc, partition) == nullptr)
            continue;
        bool held = false;
        LWLock* partition_lock = LockHashPartitionLockByIndex(partition);
        LWLockAcquire(partition_lock, LW_SHARED);
        for (PROCLOCK* proclock = compat::newest_own_proclock(MyProc, partition);
             proclock != nullptr && !held;
             proclock = compat::older_own_proclock(MyProc, partition, proclock))
            held = proclock->tag.myLock->tag.locktag_type == LOCKTAG_RELATION_EXTEND &&
                   proclock->holdMask != 0;
        LWLockRelease(partition_lock);
        if (held)
            return true;
    }
    return false;
}

} // namespace

NameLookup open_name_lookup() {
    Assert(IsTransactionState());
    NameLookup lookup = {};
    if (holds_extension_lock())
        return lookup;
    lookup.database = MyDatabaseId;
    // The worker is in no database, so it has no pg_class.
    lookup.relations = OidIsValid(MyDatabaseId) && lock_catalogs(kRelationCatalogs);
    lookup.types = OidIsValid(MyDatabaseId) && lock_catalogs(kTypeCatalogs);
    lookup.globals = lock_catalogs(kGlobalCatalogs);
    // acl.c reads pg_authid and pg_database as well.
    lookup.memberships = lookup.globals && lock_catalogs(kMembershipCatalogs);
    return lookup;
}

void close_name_lookup(NameLookup lookup) {
    if (lookup.memberships)
        unlock_catalogs(kMembershipCatalogs, lengthof(kMembershipCatalogs));
    if (lookup.globals)
        unlock_catalogs(kGlobalCatalogs, lengthof(kGlobalCatalogs));
    if (lookup.types)
        unlock_catalogs(kTypeCatalogs, lengthof(kTypeCatalogs));
    if (lookup.relations)
        unlock_catalogs(kRelationCatalogs, lengthof(kRelationCatalogs));
}

const char* locked_object_text(const LOCKTAG& tag, NameLookup lookup) {
    switch (static_cast<LockTagType>(tag.locktag_type)) {
    case LOCKTAG_RELATION:
        return relation_text(tag, lookup);
    case LOCKTAG_RELATION_EXTEND:
        return psprintf("extension of %s", relation_text(tag, lookup));
    case LOCKTAG_DATABASE_FROZEN_IDS:
        return psprintf("frozen ids of database %u", tag.locktag_field1);
    case LOCKTAG_PAGE:
        return psprintf("page %u of %s", tag.locktag_field3, relation_text(tag, lookup));
    case LOCKTAG_TUPLE:
        return psprintf("tuple (%u,%u) of %s", tag.locktag_field3, tag.locktag_field4,
                        relation_text(tag, lookup));
    case LOCKTAG_TRANSACTION:
        return psprintf("transaction %u", tag.locktag_field1);
    case LOCKTAG_VIRTUALTRANSACTION:
        return psprintf("virtual transaction %d/%u", static_cast<int>(tag.locktag_field1),
                        tag.locktag_field2);
    case LOCKTAG_SPECULATIVE_TOKEN:
        return psprintf("speculative token %u of transaction %u", tag.locktag_field2,
                        tag.locktag_field1);
    case LOCKTAG_ADVISORY:
        return advisory_text(tag, lookup);
    case LOCKTAG_OBJECT:
        return object_text(tag, lookup);
    default:
        return psprintf(
            "%s %u, %u, %u, %u",
            tag.locktag_type <= LOCKTAG_LAST_TYPE ? LockTagTypeNames[tag.locktag_type] : "lock",
            tag.locktag_field1, tag.locktag_field2, tag.locktag_field3, tag.locktag_field4);
    }
}

const char* database_name(Oid database, NameLookup lookup) {
    return lookup.globals && OidIsValid(database) ? made_valid(get_database_name(database))
                                                  : nullptr;
}

const char* role_name(Oid role, NameLookup lookup) {
    return lookup.globals && OidIsValid(role) ? made_valid(GetUserNameFromId(role, true)) : nullptr;
}

bool find_prepared_transaction(TransactionId xid, NameLookup lookup, PreparedTransaction* found) {
    *found = {};
    if (!lookup.types)
        return true;
    // twophase.c shows its list by this function alone. Called directly, it needs no privilege and
    // no plan; it looks up the types of its columns.
    FmgrInfo function;
    fmgr_info(F_PG_PREPARED_XACT, &function);
    ReturnSetInfo result = {};
    result.type = T_ReturnSetInfo;
    result.econtext = CreateStandaloneExprContext();
    result.allowedModes = SFRM_ValuePerCall;
    result.returnMode = SFRM_ValuePerCall;
    LOCAL_FCINFO(call, 0);
    InitFunctionCallInfoData(*call, &function, 0, InvalidOid, nullptr,
                             reinterpret_cast<Node*>(&result));
    bool is_found = false;
    // To the end of the list also where it is found: that is how the function frees what it keeps.
    for (;;) {
        call->isnull = false;
        result.isDone = ExprSingleResult;
        Datum row = FunctionCallInvoke(call);
        if (result.isDone == ExprEndResult)
            break;
        HeapTupleHeader tuple = DatumGetHeapTupleHeader(row);
        bool isnull;
        if (DatumGetTransactionId(GetAttributeByNum(tuple, 1, &isnull)) != xid)
            continue;
        found->gid = made_valid(TextDatumGetCString(GetAttributeByNum(tuple, 2, &isnull)));
        found->prepared_at = DatumGetTimestampTz(GetAttributeByNum(tuple, 3, &isnull));
        is_found = true;
    }
    FreeExprContext(result.econtext, true);
    return is_found;
}

} // namespace lockguard::pg
