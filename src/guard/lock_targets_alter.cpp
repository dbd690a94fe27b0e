// What ALTER locks beside the relation that it names. Where it goes down to children it does so in
// one of two ways: at once to all that inherit, or from child to child, and not below one where
// there is nothing to do (tablecmds.c: ATSimpleRecursion() and find_all_inheritors() here,
// find_inheritance_children() there).
#include "guard/lock_targets_alter.h"

#include "guard/lock_target_facts.h"
#include "guard/lock_targets_children.h"
#include "guard/lock_targets_dependents.h"
#include "guard/lock_targets_reference.h"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_constraint.h"
#include "commands/tablecmds.h"
#include "nodes/value.h"
#include "utils/lsyscache.h"
}

namespace lockguard::pg {

using namespace if_child;

namespace {

/// The relation that ALTER TABLE names, and what holds for all forms in one statement.
struct Altered {
    Oid relation;
    char kind;
    LOCKMODE mode; // the strongest that any of the forms needs
    bool inherit;  // not ONLY
};

bool is_partitioned(const Altered& table) {
    return table.kind == RELKIND_PARTITIONED_TABLE;
}

void add_all_children(Collection* found, const Altered& table) {
    if (table.inherit)
        add_descendants(found, table.relation, table.mode);
}

void add_children(Collection* found, const Altered& table, bool (*goes_on)(Oid, const void*),
                  const void* argument) {
    if (table.inherit)
        add_levels(found, table.relation, table.mode, goes_on, argument);
}

// ---- Foreign keys

void add_referenced_table(Collection* found, const Altered& table, const Constraint* key) {
    Subject referenced = look_up_referenced(found, key);
    if (!OidIsValid(referenced.relation))
        return;
    add(found, referenced.relation, ShareRowExclusiveLock);
    if (is_partitioned(table))
        add_children(found, table, lacks_key_to, &referenced.relation);
    add_partitions_of_referenced(found, referenced);
}

// ---- Columns

void add_for_new_column(Collection* found, const Altered& table, const ColumnDef* column) {
    if (facts_of_column(table.relation, column->colname).exists)
        return; // an error, or IF NOT EXISTS has nothing to do
    add_children(found, table, lacks_column, column->colname);
    for (int i = 0; i < list_length(column->constraints); i++) {
        const auto* constraint = static_cast<const Constraint*>(list_nth(column->constraints, i));
        if (IsA(constraint, Constraint) && constraint->contype == CONSTR_FOREIGN)
            add_referenced_table(found, table, constraint);
    }
}

void add_if_cascaded(Collection* found, const AlterTableCmd* command, const ObjectAddress& object) {
    if (command->behavior == DROP_CASCADE)
        add_deleted(found, &object, 1, true);
}

void add_for_dropped_column(Collection* found, const Altered& table, const AlterTableCmd* command) {
    const char* name = command->name;
    ColumnFacts column = facts_of_column(table.relation, name);
    if (!column.exists || column.number <= 0)
        return;
    // With ONLY the children are told, too; but no further.
    add_levels(found, table.relation, table.mode, table.inherit ? inherits_column_alone : never,
               name);
    const List* keys = foreign_keys_of(table.relation, column.number);
    for (int i = 0; i < list_length(keys); i++)
        add_tables_of_key(found, list_nth_oid(keys, i));
    add_if_cascaded(found, command, {RelationRelationId, table.relation, column.number});
}

/// The foreign keys of the column and to it are made anew.
void add_for_changed_type(Collection* found, const Altered& table, const char* name) {
    add_all_children(found, table);
    ColumnFacts column = facts_of_column(table.relation, name);
    if (!column.exists)
        return;
    const List* keys = foreign_keys_on(table.relation, column.number);
    for (int i = 0; i < list_length(keys); i++)
        add_tables_of_key(found, list_nth_oid(keys, i));
}

void add_for_not_null(Collection* found, const Altered& table, const char* name) {
    ColumnFacts column = facts_of_column(table.relation, name);
    if (!column.exists)
        return;
    if (compat::kNotNullIsConstraint) {
        if (!column.not_null)
            add_children(found, table, has_nullable_column, name);
    } else if (!is_partitioned(table)) {
        add_all_children(found, table);
    } else if (!column.not_null) {
        // Also with ONLY: then it looks whether the partitions' are.
        add_descendants(found, table.relation, table.mode);
    }
}

void add_for_set_not_null(Collection* found, const Altered& table, const char* name) {
    add_for_not_null(found, table, name);
    // One that is there and not valid yet is validated.
    ConstraintFacts constraint = facts_of_not_null(table.relation, name);
    if (OidIsValid(constraint.constraint) && constraint.declared && !constraint.validated &&
        !constraint.no_inherit)
        add_descendants(found, table.relation, table.mode);
}

void add_for_drop_not_null(Collection* found, const Altered& table, const char* name) {
    if (!compat::kNotNullIsConstraint) {
        add_all_children(found, table);
        return;
    }
    ConstraintFacts constraint = facts_of_not_null(table.relation, name);
    if (OidIsValid(constraint.constraint) && !constraint.no_inherit)
        add_levels(found, table.relation, table.mode,
                   table.inherit ? inherits_not_null_alone : never, name);
}

// ---- Constraints

/// One that children inherit, and that is looked for in them.
bool is_handed_down(const ConstraintFacts& constraint) {
    return (constraint.type == CONSTRAINT_CHECK || constraint.type == compat::kNotNullConstraint) &&
           !constraint.no_inherit;
}

void add_for_new_constraint(Collection* found, const Altered& table, const Constraint* constraint) {
    switch (constraint->contype) {
    case CONSTR_CHECK:
        // One that has no name yet gets one that no child is likely to have.
        if (!constraint->is_no_inherit)
            add_children(found, table, constraint->conname == nullptr ? always : lacks_constraint,
                         constraint->conname);
        break;
    case CONSTR_NOTNULL:
        if (!constraint->is_no_inherit && constraint->keys != NIL)
            add_for_not_null(found, table, strVal(linitial(constraint->keys)));
        break;
    case CONSTR_FOREIGN:
        add_referenced_table(found, table, constraint);
        break;
    case CONSTR_PRIMARY:
        for (int i = 0; i < list_length(constraint->keys); i++)
            add_for_not_null(found, table, strVal(list_nth(constraint->keys, i)));
        [[fallthrough]];
    case CONSTR_UNIQUE:
    case CONSTR_EXCLUSION:
        // As CREATE INDEX; one that exists already can be no partitioned table's.
        if (is_partitioned(table) && table.inherit && constraint->indexname == nullptr)
            add_levels(found, table.relation, ShareLock, lacks_indexes, nullptr);
        break;
    default:
        break;
    }
}

void add_for_dropped_constraint(Collection* found, const Altered& table,
                                const AlterTableCmd* command) {
    const char* name = command->name;
    if (is_partitioned(table)) // before it looks which constraint that is, and also with ONLY
        add_descendants(found, table.relation, table.mode);
    ConstraintFacts constraint = facts_of_constraint(table.relation, name);
    switch (constraint.type) {
    case CONSTRAINT_CHECK:
    case compat::kNotNullConstraint:
        if (!is_partitioned(table) && !constraint.no_inherit)
            add_levels(found, table.relation, table.mode,
                       table.inherit ? inherits_constraint_alone : never, name);
        break;
    case CONSTRAINT_FOREIGN:
        if (constraint.referenced != table.relation)
            add(found, constraint.referenced, AccessExclusiveLock);
        add_tables_of_key(found, constraint.constraint);
        break;
    default:
        break;
    }
    if (OidIsValid(constraint.constraint))
        add_if_cascaded(found, command, {ConstraintRelationId, constraint.constraint, 0});
}

void add_for_validation(Collection* found, const Altered& table, const char* name) {
    ConstraintFacts constraint = facts_of_constraint(table.relation, name);
    if (is_handed_down(constraint) && !constraint.validated)
        add_descendants(found, table.relation, table.mode); // also with ONLY
}

// ---- The rest

void add_for_triggers(Collection* found, const Altered& table, const char* name,
                      bool also_internal) {
    // Partitions have a copy of each that is FOR EACH ROW.
    if (is_partitioned(table) && has_row_trigger(table.relation, name, also_internal))
        add_children(found, table, has_row_triggers, &also_internal);
}

void add_partition_with_default(Collection* found, const Altered& table, Oid partition) {
    add_if_any(found, get_default_partition_oid(table.relation), AccessExclusiveLock);
    add(found, partition, AccessExclusiveLock);
    add_descendants(found, partition, AccessExclusiveLock);
}

void add_for_attach(Collection* found, const Altered& table, const RangeVar* name) {
    if (table.kind == RELKIND_PARTITIONED_INDEX) {
        add_if_any(found, look_up(found, name, Right::own).relation, AccessExclusiveLock);
        return;
    }
    Oid partition = look_up(found, name, Right::own).relation;
    if (OidIsValid(partition))
        add_partition_with_default(found, table, partition);
}

void add_for_detach(Collection* found, const Altered& table, const RangeVar* name) {
    // It takes no right on the partition, whose parent is the user's.
    Oid partition = RangeVarGetRelid(name, NoLock, true);
    if (!OidIsValid(partition) || partitioned_parent(partition) != table.relation) {
        found->valid = false;
        return;
    }
    add_partition_with_default(found, table, partition);
}

void add_for_finalized_detach(Collection* found, const Altered& table, const RangeVar* name) {
    Oid partition = RangeVarGetRelid(name, NoLock, true);
    if (!OidIsValid(partition) || parent_of_pending_detach(partition) != table.relation) {
        found->valid = false;
        return;
    }
    add(found, partition, AccessExclusiveLock);
    add_descendants(found, partition, AccessExclusiveLock);
}

void add_for_parent(Collection* found, const RangeVar* name) {
    add_if_any(found, look_up(found, name, Right::own).relation, ShareUpdateExclusiveLock);
}

void add_owned_sequences(Collection* found, Oid table, LOCKMODE mode) {
    const List* sequences = getOwnedSequences(table);
    for (int i = 0; i < list_length(sequences); i++)
        add(found, list_nth_oid(sequences, i), mode);
}

void add_for_owner(Collection* found, const Altered& table, const RoleSpec* owner) {
    bool has_sequences = table.kind == RELKIND_RELATION || is_partitioned(table);
    if (has_sequences && get_rolespec_oid(owner, true) != facts_of(table.relation).owner)
        add_owned_sequences(found, table.relation, table.mode);
}

void add_for_form(Collection* found, const Altered& table, const AlterTableCmd* command) {
    switch (command->subtype) {
    case AT_ColumnDefault:
    case AT_DropExpression:
    case AT_SetStatistics:
    case AT_SetStorage:
        add_all_children(found, table);
        break;
    case AT_AlterColumnType:
        add_for_changed_type(found, table, command->name);
        break;
    case AT_DropNotNull:
        add_for_drop_not_null(found, table, command->name);
        break;
    case AT_SetNotNull:
        add_for_set_not_null(found, table, command->name);
        break;
    case AT_AddColumn:
        add_for_new_column(found, table, reinterpret_cast<const ColumnDef*>(command->def));
        break;
    case AT_DropColumn:
        add_for_dropped_column(found, table, command);
        break;
    case AT_AddConstraint:
        if (command->def != nullptr && IsA(command->def, Constraint))
            add_for_new_constraint(found, table, reinterpret_cast<const Constraint*>(command->def));
        break;
    case AT_DropConstraint:
        add_for_dropped_constraint(found, table, command);
        break;
    case AT_ValidateConstraint:
        add_for_validation(found, table, command->name);
        break;
    case AT_EnableTrig:
    case AT_EnableAlwaysTrig:
    case AT_EnableReplicaTrig:
    case AT_DisableTrig:
        add_for_triggers(found, table, command->name, true);
        break;
    case AT_EnableTrigAll:
    case AT_DisableTrigAll:
        add_for_triggers(found, table, nullptr, true);
        break;
    case AT_EnableTrigUser:
    case AT_DisableTrigUser:
        add_for_triggers(found, table, nullptr, false);
        break;
    case AT_AttachPartition:
        add_for_attach(found, table, reinterpret_cast<const PartitionCmd*>(command->def)->name);
        break;
    case AT_DetachPartition:
        add_for_detach(found, table, reinterpret_cast<const PartitionCmd*>(command->def)->name);
        break;
    case AT_DetachPartitionFinalize:
        add_for_finalized_detach(found, table,
                                 reinterpret_cast<const PartitionCmd*>(command->def)->name);
        break;
    case AT_AddInherit:
        add_for_parent(found, reinterpret_cast<const RangeVar*>(command->def));
        break;
    case AT_DropInherit:
        found->has_others = true; // its lock on the parent is weak: left to the attempt
        break;
    case AT_ChangeOwner:
        add_for_owner(found, table, command->newowner);
        break;
    default:
        break;
    }
}

} // namespace

void collect(Collection* found, const AlterTableStmt* statement) {
    auto [relation, kind] = look_up(found, statement->relation, Right::own);
    if (!OidIsValid(relation))
        return;
    if (!is_of_type(kind, statement->objtype, Kinds::of_type)) {
        found->valid = false;
        return;
    }
    Altered table = {relation, kind, AlterTableGetLockLevel(statement->cmds),
                     statement->relation->inh};
    add(found, relation, table.mode);
    for (int i = 0; i < list_length(statement->cmds) && found->valid; i++)
        add_for_form(found, table, static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i)));
}

void collect(Collection* found, const RenameStmt* statement) {
    auto [relation, kind] = look_up(found, statement->relation, Right::own);
    if (!OidIsValid(relation))
        return;
    if (!is_of_type(kind, statement->renameType, Kinds::renamable) ||
        (statement->renameType == OBJECT_POLICY && kind != RELKIND_RELATION &&
         kind != RELKIND_PARTITIONED_TABLE)) {
        found->valid = false;
        return;
    }
    // ALTER TABLE takes the strong lock on an index, too.
    bool weak = statement->renameType == OBJECT_INDEX && is_index(kind);
    add(found, relation, weak ? ShareUpdateExclusiveLock : AccessExclusiveLock);
    if (!statement->relation->inh)
        return;
    if (statement->renameType == OBJECT_COLUMN) {
        add_descendants(found, relation, AccessExclusiveLock);
    } else if (statement->renameType == OBJECT_TABCONSTRAINT) {
        if (is_handed_down(facts_of_constraint(relation, statement->subname)))
            add_descendants(found, relation, AccessExclusiveLock);
    }
}

void collect(Collection* found, const AlterObjectSchemaStmt* statement) {
    auto [relation, kind] = look_up(found, statement->relation, Right::own);
    if (!OidIsValid(relation))
        return;
    if (!is_of_type(kind, statement->objectType, Kinds::of_type) || is_index(kind)) {
        found->valid = false;
        return;
    }
    add(found, relation, AccessExclusiveLock);
    if (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE)
        add_owned_sequences(found, relation, AccessExclusiveLock);
}

} // namespace lockguard::pg
