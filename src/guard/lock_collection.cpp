#include "guard/lock_collection.h"

#include <algorithm>

#include "guard/inheritance.h"
#include "guard/lock_target_facts.h"
#include "locks/lock_modes.h"

extern "C" {
#include "access/htup_details.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

namespace {

/// Was the relation of that row of pg_class made in this transaction?
bool is_made_here(Oid relation, HeapTuple row) {
    // Nearly all end here: the row is an older transaction's.
    if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(row->t_data)))
        return false;
    // This transaction has made the relation, or changed its row. Whoever makes one has it locked;
    // with the lock held, it can be opened.
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    if (!compat::holds_lock(tag, AccessExclusiveLock))
        return false;
    Relation opened = RelationIdGetRelation(relation);
    if (!RelationIsValid(opened))
        return false;
    // A new file alone (rd_newRelfilenodeSubid) does not make the relation a new one.
    bool made_here = opened->rd_createSubid != InvalidSubTransactionId;
    RelationClose(opened);
    return made_here;
}

/// Notes that the statement has to do with such a relation.
void note(Collection* found, const RelationFacts& facts) {
    found->has_private |= facts.is_private;
    found->has_new |= facts.is_new;
    found->has_others |= !facts.is_private || facts.may_have_foreign_key;
}

/// Where the relation is in the list: in the first place of a mode that the new one covers, that is
/// replaced, and others that it covers go. Returns whether the list has the new one, or one that
/// covers it.
bool merge(Collection* found, LockTarget added) {
    std::size_t kept = 0;
    bool placed = false;
    for (LockTarget lock : found->locks) {
        if (lock.relation == added.relation && covers(added.mode, lock.mode)) {
            if (placed)
                continue;
            lock.mode = added.mode;
            placed = true;
        } else if (lock.relation == added.relation && covers(lock.mode, added.mode)) {
            placed = true;
        }
        found->locks[kept++] = lock;
    }
    found->locks.truncate(kept);
    return placed;
}

} // namespace

Collection start_collection() {
    Collection found = {};
    found.valid = true;
    return found;
}

RelationFacts facts_of(Oid relation) {
    RelationFacts facts = {};
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
    if (!HeapTupleIsValid(row))
        return facts;
    const auto* columns = reinterpret_cast<const FormData_pg_class*>(GETSTRUCT(row));
    facts.kind = columns->relkind;
    facts.owner = columns->relowner;
    if (columns->relpersistence == RELPERSISTENCE_TEMP) {
        facts.is_private = isTempOrTempToastNamespace(columns->relnamespace);
        facts.is_others_temporary = !facts.is_private;
    } else {
        facts.is_private = facts.is_new = is_made_here(relation, row);
        // A foreign key has triggers on both tables; those of a temporary table stay among such.
        facts.may_have_foreign_key = columns->relhastriggers;
    }
    ReleaseSysCache(row);
    return facts;
}

void add(Collection* found, Oid relation, LOCKMODE mode) {
    RelationFacts facts = facts_of(relation);
    if (facts.kind == '\0')
        return; // dropped just now
    note(found, facts);
    if (facts.is_private)
        return;
    bool is_there = std::any_of(found->locks.begin(), found->locks.end(),
                                [&](LockTarget lock) { return lock.relation == relation; });
    if (!is_there || !merge(found, {relation, mode}))
        found->locks.add({relation, mode});
}

void add_if_any(Collection* found, Oid relation, LOCKMODE mode) {
    if (OidIsValid(relation))
        add(found, relation, mode);
}

namespace {

void add_all_below(Collection* found, Oid relation, LOCKMODE mode, bool also_others_temporary) {
    const List* all = with_descendants(relation);
    for (int i = 0; i < list_length(all); i++) {
        // In the order of their OIDs, as PostgreSQL locks them. The first is the relation itself.
        Oid descendant = list_nth_oid(all, i);
        if (descendant != relation &&
            (also_others_temporary || !facts_of(descendant).is_others_temporary))
            add(found, descendant, mode);
    }
}

} // namespace

void add_descendants(Collection* found, Oid relation, LOCKMODE mode) {
    add_all_below(found, relation, mode, true);
}

void add_accessible_descendants(Collection* found, Oid relation, LOCKMODE mode) {
    add_all_below(found, relation, mode, false);
}

void add_levels(Collection* found, Oid relation, LOCKMODE mode, bool (*goes_on)(Oid, const void*),
                const void* argument) {
    check_stack_depth();
    const List* children = children_of(relation);
    for (int i = 0; i < list_length(children); i++)
        add(found, list_nth_oid(children, i), mode);
    for (int i = 0; i < list_length(children); i++) {
        Oid child = list_nth_oid(children, i);
        if (has_children(child) && goes_on(child, argument))
            add_levels(found, child, mode, goes_on, argument);
    }
}

void add_tables_of_key(Collection* found, Oid constraint) {
    const List* tables = relations_with_triggers_of(constraint);
    for (int i = 0; i < list_length(tables); i++)
        add(found, list_nth_oid(tables, i), AccessExclusiveLock);
}

bool is_allowed(Oid relation, Right right, AclMode privileges) {
    Oid user = GetUserId();
    // As most commands do; the administrator who allows himself that needs no guard.
    if (!allowSystemTableMods && IsCatalogRelationOid(relation))
        return false;
    switch (right) {
    case Right::own:
        return compat::owns_relation(relation, user);
    case Right::own_or_schema:
        return compat::owns_relation(relation, user) ||
               compat::owns_schema(get_rel_namespace(relation), user);
    case Right::maintain: {
        // An index is its table's to maintain.
        Oid table =
            is_index(get_rel_relkind(relation)) ? IndexGetRelation(relation, true) : relation;
        return OidIsValid(table) && compat::may_maintain(table, user);
    }
    case Right::privilege:
        return pg_class_aclcheck(relation, user, privileges) == ACLCHECK_OK;
    }
    return false;
}

Subject look_up(Collection* found, const RangeVar* name, Right right, AclMode privileges) {
    Oid relation = name == nullptr ? InvalidOid : RangeVarGetRelid(name, NoLock, true);
    RelationFacts facts = {};
    if (OidIsValid(relation))
        facts = facts_of(relation);
    if (facts.kind == '\0' || !is_allowed(relation, right, privileges)) {
        found->valid = false;
        return {InvalidOid, '\0'};
    }
    note(found, facts);
    return {relation, facts.kind};
}

bool is_of_type(char kind, ObjectType type, Kinds kinds) {
    switch (type) {
    case OBJECT_INDEX:
        return kinds == Kinds::renamable || is_index(kind);
    case OBJECT_VIEW:
        return kind == RELKIND_VIEW;
    case OBJECT_MATVIEW:
        return kind == RELKIND_MATVIEW;
    case OBJECT_SEQUENCE:
        return kind == RELKIND_SEQUENCE;
    case OBJECT_FOREIGN_TABLE:
        return kind == RELKIND_FOREIGN_TABLE;
    default:
        return kind != RELKIND_COMPOSITE_TYPE;
    }
}

} // namespace lockguard::pg
