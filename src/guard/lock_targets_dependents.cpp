// The rules are those of findDependentObjects() and doDeletion() in PostgreSQL's dependency.c. All
// that depends on an object in any way is deleted with it; what an object is an internal part of,
// or the extension that it belongs to, is deleted as well. Here it does not matter in which order.
//
// RESTRICT locks the relations that it finds just the same, before it says that they stop it.
#include "guard/lock_targets_dependents.h"

#include "boundary/memory.h"
#include "guard/lock_target_facts.h"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_statistic_ext.h"
#include "catalog/pg_trigger.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
}

namespace lockguard::pg {

namespace {

/// One walk over pg_depend.
struct Walk {
    Collection* found;
    HTAB* visited;                       // of ObjectAddress
    GrowingArray<ObjectAddress> pending; // visited, in order
    bool cascade;
    Relation dependencies;
};

// ---- What the deletion of one object locks besides it

/// The OID in that column of a row of a catalog, found by its own OID; InvalidOid where there is no
/// such row.
Oid relation_of_row(Oid catalog, Oid index, AttrNumber oid_column, AttrNumber column, Oid row) {
    ScanKeyData key;
    ScanKeyInit(&key, oid_column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(row));
    Relation opened = table_open(catalog, AccessShareLock);
    SysScanDesc scan = systable_beginscan(opened, index, true, nullptr, 1, &key);
    HeapTuple tuple = systable_getnext(scan);
    Oid relation = InvalidOid;
    if (HeapTupleIsValid(tuple)) {
        bool is_null = false;
        relation =
            DatumGetObjectId(heap_getattr(tuple, column, RelationGetDescr(opened), &is_null));
    }
    systable_endscan(scan);
    table_close(opened, AccessShareLock);
    return relation;
}

void add_for_deleted_relation(Collection* found, Oid relation) {
    char kind = get_rel_relkind(relation);
    if (is_index(kind)) {
        add_if_any(found, IndexGetRelation(relation, true), AccessExclusiveLock);
        return;
    }
    Oid parent = partitioned_parent(relation);
    if (!OidIsValid(parent))
        parent = parent_of_pending_detach(relation);
    if (!OidIsValid(parent))
        return;
    add(found, parent, AccessExclusiveLock);
    add_if_any(found, get_default_partition_oid(parent), AccessExclusiveLock);
}

void add_for_deletion(Collection* found, const ObjectAddress& object) {
    Oid oid = object.objectId;
    switch (object.classId) {
    case RelationRelationId:
        if (object.objectSubId == 0)
            add_for_deleted_relation(found, oid);
        break;
    case ConstraintRelationId:
        add_if_any(found,
                   relation_of_row(ConstraintRelationId, ConstraintOidIndexId,
                                   Anum_pg_constraint_oid, Anum_pg_constraint_conrelid, oid),
                   AccessExclusiveLock);
        break;
    case TriggerRelationId:
        add_if_any(found,
                   relation_of_row(TriggerRelationId, TriggerOidIndexId, Anum_pg_trigger_oid,
                                   Anum_pg_trigger_tgrelid, oid),
                   AccessExclusiveLock);
        break;
    case RewriteRelationId:
        add_if_any(found,
                   relation_of_row(RewriteRelationId, RewriteOidIndexId, Anum_pg_rewrite_oid,
                                   Anum_pg_rewrite_ev_class, oid),
                   AccessExclusiveLock);
        break;
    case PolicyRelationId:
        add_if_any(found,
                   relation_of_row(PolicyRelationId, PolicyOidIndexId, Anum_pg_policy_oid,
                                   Anum_pg_policy_polrelid, oid),
                   AccessExclusiveLock);
        break;
    case AttrDefaultRelationId:
        add_if_any(found,
                   relation_of_row(AttrDefaultRelationId, AttrDefaultOidIndexId,
                                   Anum_pg_attrdef_oid, Anum_pg_attrdef_adrelid, oid),
                   AccessExclusiveLock);
        break;
    case StatisticExtRelationId:
        add_if_any(found,
                   relation_of_row(StatisticExtRelationId, StatisticExtOidIndexId,
                                   Anum_pg_statistic_ext_oid, Anum_pg_statistic_ext_stxrelid, oid),
                   ShareUpdateExclusiveLock);
        break;
    default:
        break;
    }
}

// ---- The walk

/// Enters an object that is deleted, unless it is there already, as itself or as part of a whole.
void visit(Walk* walk, const ObjectAddress& object) {
    ObjectAddress whole = object;
    whole.objectSubId = 0;
    if (object.objectSubId != 0 &&
        hash_search(walk->visited, &whole, HASH_FIND, nullptr) != nullptr)
        return;
    bool known;
    hash_search(walk->visited, &object, HASH_ENTER, &known);
    if (known)
        return;
    if (IsPinnedObject(object.classId, object.objectId)) {
        walk->found->valid = false;
        return;
    }
    if (object.classId == RelationRelationId)
        add(walk->found, object.objectId, AccessExclusiveLock);
    walk->pending.add(object);
}

/// Calls visit_row(row) for each row of pg_depend that has the object on that side.
template <class VisitRow>
void visit_dependencies(const Walk& walk, const ObjectAddress& object, bool as_referenced,
                        VisitRow visit_row) {
    const int columns[] = {as_referenced ? Anum_pg_depend_refclassid : Anum_pg_depend_classid,
                           as_referenced ? Anum_pg_depend_refobjid : Anum_pg_depend_objid,
                           as_referenced ? Anum_pg_depend_refobjsubid : Anum_pg_depend_objsubid};
    ScanKeyData keys[3];
    ScanKeyInit(&keys[0], static_cast<AttrNumber>(columns[0]), BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(object.classId));
    ScanKeyInit(&keys[1], static_cast<AttrNumber>(columns[1]), BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(object.objectId));
    ScanKeyInit(&keys[2], static_cast<AttrNumber>(columns[2]), BTEqualStrategyNumber, F_INT4EQ,
                Int32GetDatum(object.objectSubId));
    SysScanDesc scan = systable_beginscan(
        walk.dependencies, as_referenced ? DependReferenceIndexId : DependDependerIndexId, true,
        nullptr, object.objectSubId == 0 ? 2 : 3, keys);
    HeapTuple tuple;
    while (HeapTupleIsValid(tuple = systable_getnext(scan)))
        visit_row(*reinterpret_cast<const FormData_pg_depend*>(GETSTRUCT(tuple)));
    systable_endscan(scan);
}

bool is_same_object(const ObjectAddress& left, const ObjectAddress& right) {
    return left.classId == right.classId && left.objectId == right.objectId;
}

/// \param named  one that the statement names: what it is a part of stops the statement
void follow(Walk* walk, const ObjectAddress& object, bool named) {
    visit_dependencies(*walk, object, false, [&](const FormData_pg_depend& row) {
        const ObjectAddress owner = {row.refclassid, row.refobjid, row.refobjsubid};
        if (is_same_object(owner, object) ||
            (row.deptype != DEPENDENCY_INTERNAL && row.deptype != DEPENDENCY_EXTENSION))
            return;
        if (named)
            walk->found->valid = false;
        else
            visit(walk, owner);
    });
    visit_dependencies(*walk, object, true, [&](const FormData_pg_depend& row) {
        const ObjectAddress dependent = {row.classid, row.objid, row.objsubid};
        if (!is_same_object(dependent, object) || object.objectSubId != 0)
            visit(walk, dependent);
    });
    if (walk->cascade)
        add_for_deletion(walk->found, object);
}

} // namespace

void add_deleted(Collection* found, const ObjectAddress* objects, int count, bool cascade) {
    HASHCTL control = {};
    control.keysize = sizeof(ObjectAddress);
    control.entrysize = sizeof(ObjectAddress);
    control.hcxt = CurrentMemoryContext;
    Walk walk = {found,
                 hash_create("pg_lockguard dropped objects", 256, &control,
                             HASH_ELEM | HASH_BLOBS | HASH_CONTEXT),
                 {},
                 cascade,
                 table_open(DependRelationId, AccessShareLock)};
    for (int i = 0; i < count; i++)
        visit(&walk, objects[i]);
    for (std::size_t i = 0; i < walk.pending.size() && found->valid; i++) {
        CHECK_FOR_INTERRUPTS();
        const ObjectAddress object = walk.pending[i];
        follow(&walk, object, i < static_cast<std::size_t>(count));
    }
    table_close(walk.dependencies, AccessShareLock);
    hash_destroy(walk.visited);
}

} // namespace lockguard::pg
