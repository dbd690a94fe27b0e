// As AlterTableMoveAll() of tablecmds.c chooses them: every relation of that type in the
// tablespace, outside of the catalogs, that belongs to one of the roles, or to any.
#include "guard/lock_targets_tablespace.h"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "commands/tablespace.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
}

namespace lockguard::pg {

namespace {

bool is_moved(char kind, ObjectType type) {
    switch (type) {
    case OBJECT_TABLE:
        return kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE;
    case OBJECT_INDEX:
        return is_index(kind);
    case OBJECT_MATVIEW:
        return kind == RELKIND_MATVIEW;
    default:
        return false;
    }
}

/// The OIDs of the roles; NIL also where one of them does not exist.
List* roles_of(const AlterTableMoveAllStmt* statement) {
    List* roles = NIL;
    for (int i = 0; i < list_length(statement->roles); i++) {
        Oid role =
            get_rolespec_oid(static_cast<const RoleSpec*>(list_nth(statement->roles, i)), true);
        if (!OidIsValid(role))
            return NIL;
        roles = lappend_oid(roles, role);
    }
    return roles;
}

bool is_chosen(const FormData_pg_class& relation, const AlterTableMoveAllStmt* statement,
               const List* roles) {
    return !IsCatalogNamespace(relation.relnamespace) && !relation.relisshared &&
           !isAnyTempNamespace(relation.relnamespace) && !IsToastNamespace(relation.relnamespace) &&
           is_moved(relation.relkind, statement->objtype) &&
           (statement->roles == NIL || list_member_oid(roles, relation.relowner));
}

} // namespace

List* moved_relations(const AlterTableMoveAllStmt* statement, Oid from, Oid to) {
    if (from == to)
        return NIL;
    const List* roles = roles_of(statement);
    List* chosen = NIL;
    // The database's own tablespace is 0 in pg_class.
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_class_reltablespace, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(from == MyDatabaseTableSpace ? InvalidOid : from));
    Relation catalog = table_open(RelationRelationId, AccessShareLock);
    // There is an index by tablespace; it is by file first of all.
    SysScanDesc scan = systable_beginscan(catalog, InvalidOid, false, nullptr, 1, &key);
    HeapTuple tuple;
    while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
        const auto* relation = reinterpret_cast<const FormData_pg_class*>(GETSTRUCT(tuple));
        if (is_chosen(*relation, statement, roles))
            chosen = lappend_oid(chosen, relation->oid);
    }
    systable_endscan(scan);
    table_close(catalog, AccessShareLock);
    return chosen;
}

void collect(Collection* found, const AlterTableMoveAllStmt* statement) {
    Oid from = get_tablespace_oid(statement->orig_tablespacename, true);
    Oid to = get_tablespace_oid(statement->new_tablespacename, true);
    bool refused = !OidIsValid(from) || !OidIsValid(to) || from == GLOBALTABLESPACE_OID ||
                   to == GLOBALTABLESPACE_OID ||
                   (statement->roles != NIL && roles_of(statement) == NIL);
    if (refused ||
        (to != MyDatabaseTableSpace && !compat::may_create_in_tablespace(to, GetUserId()))) {
        found->valid = false;
        return;
    }
    const List* relations = moved_relations(statement, from, to);
    for (int i = 0; i < list_length(relations); i++) {
        Oid relation = list_nth_oid(relations, i);
        if (!is_allowed(relation, Right::own, 0)) {
            found->valid = false;
            return;
        }
        add(found, relation, AccessExclusiveLock);
    }
}

} // namespace lockguard::pg
