#include "guard/lock_targets_drop.h"

#include "boundary/memory.h"
#include "guard/lock_target_facts.h"
#include "guard/lock_targets_dependents.h"

extern "C" {
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "commands/policy.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "rewrite/rewriteSupport.h"
}

namespace lockguard::pg {

namespace {

/// A table goes with its triggers on other tables: those that it refers to by foreign keys. (What
/// refers to it stops the statement, or needs CASCADE.)
void add_tables_of_keys(Collection* found, Oid table) {
    const List* keys = foreign_keys_of(table);
    for (int i = 0; i < list_length(keys); i++)
        add_tables_of_key(found, list_nth_oid(keys, i));
}

void add_dropped_table(Collection* found, Oid table, char kind) {
    // Partitions go with their parent; children of other kinds stop the statement or need CASCADE.
    std::size_t first = found->locks.size();
    if (kind == RELKIND_PARTITIONED_TABLE)
        add_descendants(found, table, AccessExclusiveLock);
    std::size_t end = found->locks.size();
    // What the parent's default partition may hold is another matter without this one.
    Oid parent = partitioned_parent(table);
    Oid default_partition = OidIsValid(parent) ? get_default_partition_oid(parent) : InvalidOid;
    if (OidIsValid(default_partition))
        add(found, default_partition, AccessExclusiveLock);
    add_tables_of_keys(found, table);
    for (std::size_t i = first; i < end; i++)
        add_tables_of_keys(found, found->locks[i].relation);
}

void add_dropped_index(Collection* found, Oid index, Oid table, char kind) {
    if (kind != RELKIND_PARTITIONED_INDEX)
        return;
    add_descendants(found, table, AccessExclusiveLock);
    add_descendants(found, index, AccessExclusiveLock);
}

void add_dropped_relation(Collection* found, const RangeVar* name, const DropStmt* statement) {
    ObjectType type = statement->removeType;
    if (statement->missing_ok && !OidIsValid(RangeVarGetRelid(name, NoLock, true)))
        return;
    auto [relation, kind] = look_up(found, name, Right::own_or_schema);
    if (!OidIsValid(relation))
        return;
    bool is_table = kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE;
    if (!is_of_type(kind, type, Kinds::of_type) || (type == OBJECT_TABLE && !is_table)) {
        found->valid = false;
        return;
    }
    Oid table = type == OBJECT_INDEX ? IndexGetRelation(relation, true) : InvalidOid;
    if (OidIsValid(table))
        add(found, table, AccessExclusiveLock);
    Oid parent = partitioned_parent(relation);
    if (OidIsValid(parent))
        add(found, parent, AccessExclusiveLock);
    add(found, relation, AccessExclusiveLock);
    if (type == OBJECT_INDEX)
        add_dropped_index(found, relation, table, kind);
    else
        add_dropped_table(found, relation, kind);
    if (statement->behavior == DROP_CASCADE) {
        const ObjectAddress object = {RelationRelationId, relation, 0};
        add_deleted(found, &object, 1, true);
    }
}

Oid oid_of_part(Oid table, const char* part, ObjectType type) {
    switch (type) {
    case OBJECT_TRIGGER:
        return get_trigger_oid(table, part, true);
    case OBJECT_RULE:
        return get_rewrite_oid(table, part, true);
    default:
        return get_relation_policy_oid(table, part, true);
    }
}

void add_for_part(Collection* found, List* names, ObjectType type) {
    // The last name is the trigger's, the rule's or the policy's own.
    int qualified = list_length(names) - 1;
    if (qualified < 1)
        return;
    const char* part = strVal(llast(names));
    List* table_name = list_truncate(list_copy(names), qualified);
    Oid table = look_up(found, makeRangeVarFromNameList(table_name), Right::own).relation;
    if (!OidIsValid(table))
        return;
    // Where there is none, the lock on the table is given back.
    if (OidIsValid(oid_of_part(table, part, type)))
        add(found, table, AccessExclusiveLock);
}

void add_schemas(Collection* found, const DropStmt* statement) {
    int count = 0;
    auto* schemas =
        new_array<ObjectAddress>(static_cast<std::size_t>(list_length(statement->objects)));
    for (int i = 0; i < list_length(statement->objects); i++) {
        Oid schema = get_namespace_oid(strVal(list_nth(statement->objects, i)), true);
        if (!OidIsValid(schema) && statement->missing_ok)
            continue;
        if (!OidIsValid(schema) || !compat::owns_schema(schema, GetUserId())) {
            found->valid = false;
            return;
        }
        schemas[count++] = {NamespaceRelationId, schema, 0};
    }
    add_deleted(found, schemas, count, statement->behavior == DROP_CASCADE);
}

} // namespace

void collect(Collection* found, const DropStmt* statement) {
    if (statement->removeType == OBJECT_SCHEMA) {
        add_schemas(found, statement);
        return;
    }
    for (int i = 0; i < list_length(statement->objects) && found->valid; i++) {
        auto* names = static_cast<List*>(list_nth(statement->objects, i));
        switch (statement->removeType) {
        case OBJECT_TABLE:
        case OBJECT_INDEX:
        case OBJECT_VIEW:
        case OBJECT_MATVIEW:
        case OBJECT_SEQUENCE:
        case OBJECT_FOREIGN_TABLE:
            add_dropped_relation(found, makeRangeVarFromNameList(names), statement);
            break;
        case OBJECT_TRIGGER:
        case OBJECT_RULE:
        case OBJECT_POLICY:
            add_for_part(found, names, statement->removeType);
            break;
        default:
            found->valid = false;
            break;
        }
    }
}

} // namespace lockguard::pg
