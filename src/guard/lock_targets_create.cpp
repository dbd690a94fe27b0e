// What CREATE TABLE locks (tablecmds.c: DefineRelation(), CloneForeignKeyConstraints(); the foreign
// keys of its own are added by an ALTER TABLE that it makes; parse_utilcmd.c:
// transformTableLikeClause()).
//
// As PostgreSQL checks the rights on a parent only when it has locked it, somebody who may not have
// the table as a partition's parent can nevertheless stop it. Here the rights come first.
#include "guard/lock_targets_create.h"

#include "guard/lock_target_facts.h"
#include "guard/lock_targets_reference.h"

extern "C" {
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "utils/lsyscache.h"
}

namespace lockguard::pg {

namespace {

// ---- The words

/// Calls visit(key) for each foreign key that the statement declares.
template <class Visit>
void visit_foreign_keys(const CreateStmt* statement, Visit visit) {
    auto visit_if_key = [&visit](const Node* node) {
        const auto* constraint = reinterpret_cast<const Constraint*>(node);
        if (IsA(node, Constraint) && constraint->contype == CONSTR_FOREIGN)
            visit(constraint);
    };
    for (int i = 0; i < list_length(statement->tableElts); i++) {
        const auto* element = static_cast<const Node*>(list_nth(statement->tableElts, i));
        visit_if_key(element);
        if (!IsA(element, ColumnDef))
            continue;
        const List* constraints = reinterpret_cast<const ColumnDef*>(element)->constraints;
        for (int j = 0; j < list_length(constraints); j++)
            visit_if_key(static_cast<const Node*>(list_nth(constraints, j)));
    }
}

template <class Visit>
void visit_likes(const CreateStmt* statement, Visit visit) {
    for (int i = 0; i < list_length(statement->tableElts); i++) {
        const auto* element = static_cast<const Node*>(list_nth(statement->tableElts, i));
        if (IsA(element, TableLikeClause))
            visit(reinterpret_cast<const TableLikeClause*>(element));
    }
}

// ---- Where it is to be

bool is_temporary(const RangeVar* table) {
    return table->relpersistence == RELPERSISTENCE_TEMP ||
           (table->schemaname != nullptr && strcmp(table->schemaname, "pg_temp") == 0);
}

/// The schema that a table which is not temporary is made in; InvalidOid where there is none.
Oid creation_schema(const RangeVar* table) {
    if (table->schemaname != nullptr)
        return get_namespace_oid(table->schemaname, true);
    const List* path = fetch_search_path(false);
    return path == NIL ? InvalidOid : linitial_oid(path);
}

/// Does the name, once the table is there, stand for the new table?
bool is_new_table(const RangeVar* name, const RangeVar* table, Oid schema) {
    if (strcmp(name->relname, table->relname) != 0)
        return false;
    if (name->schemaname != nullptr)
        return get_namespace_oid(name->schemaname, true) == schema;
    // Only what is searched implicitly comes before the schema that new tables are made in.
    Oid other = RangeVarGetRelid(name, NoLock, true);
    if (!OidIsValid(other))
        return true;
    Oid found_in = get_rel_namespace(other);
    return found_in != PG_CATALOG_NAMESPACE && !isTempNamespace(found_in);
}

// ---- Parents

/// The tables at the other ends of the foreign keys that a partition gets from its parent.
void add_for_inherited_keys(Collection* found, Oid parent) {
    const List* own = referenced_by_keys_of(parent);
    for (int i = 0; i < list_length(own); i++) {
        Oid table = list_nth_oid(own, i);
        add(found, table, ShareRowExclusiveLock);
        add_descendants(found, table, ShareRowExclusiveLock);
    }
    const List* others = referring_to(parent);
    for (int i = 0; i < list_length(others); i++)
        add(found, list_nth_oid(others, i), ShareRowExclusiveLock);
}

void add_parent_of_partition(Collection* found, const RangeVar* name, bool is_default) {
    auto [parent, kind] = look_up(found, name, Right::own);
    if (!OidIsValid(parent))
        return;
    Oid default_partition =
        kind == RELKIND_PARTITIONED_TABLE ? get_default_partition_oid(parent) : InvalidOid;
    if (kind != RELKIND_PARTITIONED_TABLE || (is_default && OidIsValid(default_partition))) {
        found->valid = false;
        return;
    }
    add(found, parent, AccessExclusiveLock);
    // What is below it, if it is partitioned itself, is scanned unless its constraints make that
    // needless: left to the attempt.
    if (OidIsValid(default_partition))
        add(found, default_partition, AccessExclusiveLock);
    add_for_inherited_keys(found, parent);
}

void add_parents(Collection* found, const CreateStmt* statement) {
    for (int i = 0; i < list_length(statement->inhRelations) && found->valid; i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->inhRelations, i));
        if (statement->partbound != nullptr) {
            add_parent_of_partition(found, name, statement->partbound->is_default);
            continue;
        }
        auto [parent, kind] = look_up(found, name, Right::own);
        if (OidIsValid(parent) && kind != RELKIND_RELATION && kind != RELKIND_FOREIGN_TABLE)
            found->valid = false;
        if (found->valid)
            add(found, parent, ShareUpdateExclusiveLock);
    }
}

// ---- The rest

void add_model(Collection* found, const TableLikeClause* like) {
    Oid model = RangeVarGetRelid(like->relation, NoLock, true);
    if (OidIsValid(model) && get_rel_relkind(model) == RELKIND_COMPOSITE_TYPE) {
        found->has_others = true; // by rights on a type: left to the attempt
        return;
    }
    model = look_up(found, like->relation, Right::privilege, ACL_SELECT).relation;
    if (OidIsValid(model))
        add(found, model, AccessShareLock);
}

void add_referenced(Collection* found, const Constraint* key) {
    Subject table = look_up_referenced(found, key);
    if (!OidIsValid(table.relation))
        return;
    add(found, table.relation, ShareRowExclusiveLock);
    add_partitions_of_referenced(found, table);
}

} // namespace

bool names_other_relations(const CreateStmt* statement) {
    bool found = statement->inhRelations != NIL;
    visit_likes(statement, [&found](const TableLikeClause* /*like*/) { found = true; });
    visit_foreign_keys(statement, [&found, statement](const Constraint* key) {
        // One that refers to the new table itself is none of it.
        found |= key->pktable->schemaname != nullptr ||
                 strcmp(key->pktable->relname, statement->relation->relname) != 0;
    });
    return found;
}

void collect(Collection* found, const CreateStmt* statement) {
    const RangeVar* table = statement->relation;
    const bool temporary = is_temporary(table);
    Oid schema = temporary ? InvalidOid : creation_schema(table);
    if (!temporary) {
        if (!OidIsValid(schema) || !compat::may_create_in_schema(schema, GetUserId())) {
            found->valid = false;
            return;
        }
        if (OidIsValid(get_relname_relid(table->relname, schema))) {
            // It fails, or IF NOT EXISTS has nothing to do.
            found->valid = statement->if_not_exists;
            return;
        }
    }
    visit_likes(statement, [found](const TableLikeClause* like) {
        if (found->valid)
            add_model(found, like);
    });
    if (found->valid)
        add_parents(found, statement);
    if (!found->valid || temporary) // whose foreign keys can refer to temporary tables only
        return;
    visit_foreign_keys(statement, [=](const Constraint* key) {
        if (!is_new_table(key->pktable, table, schema))
            add_referenced(found, key);
    });
}

} // namespace lockguard::pg
