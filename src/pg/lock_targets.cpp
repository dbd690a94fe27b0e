#include "pg/lock_targets.h"

#include <algorithm>

extern "C" {
#include "access/htup_details.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "commands/tablecmds.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

namespace {

/// The list that grows. `valid` turns false for good once the statement can't succeed as it stands.
struct Collection {
    LockTarget* locks;
    int count;
    int room;
    bool temporary;
    bool valid;
};

void add(Collection* found, Oid relation, LOCKMODE mode) {
    for (int i = 0; i < found->count; i++) {
        if (found->locks[i].relation == relation) {
            found->locks[i].mode = std::max(found->locks[i].mode, mode);
            return;
        }
    }
    if (found->count == found->room) {
        found->room *= 2;
        found->locks = static_cast<LockTarget*>(
            repalloc(found->locks, sizeof(LockTarget) * static_cast<Size>(found->room)));
    }
    found->locks[found->count++] = {relation, mode};
}

/// Adds all that inherit from the relation, partitions of partitions included.
void add_descendants(Collection* found, Oid relation, LOCKMODE mode) {
    if (!has_subclass(relation))
        return;
    const List* all = find_all_inheritors(relation, NoLock, nullptr);
    for (int i = 0; i < list_length(all); i++) {
        // In the order of their OIDs, as PostgreSQL locks them. The first is the relation itself.
        Oid descendant = list_nth_oid(all, i);
        if (descendant != relation)
            add(found, descendant, mode);
    }
}

/// Whose leave it takes.
enum class Right { own, own_or_schema, privilege };

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
    case Right::privilege:
        return pg_class_aclcheck(relation, user, privileges) == ACLCHECK_OK;
    }
    return false;
}

/// A relation that a statement names.
struct Subject {
    Oid relation; // InvalidOid where there is none for this user
    char kind;
};

/// The relation of that name, if the user may have a lock on it; else the collection is spoilt.
Subject look_up(Collection* found, const RangeVar* name, Right right, AclMode privileges = 0) {
    Oid relation = name == nullptr ? InvalidOid : RangeVarGetRelid(name, NoLock, true);
    HeapTuple row =
        OidIsValid(relation) ? SearchSysCache1(RELOID, ObjectIdGetDatum(relation)) : nullptr;
    char kind = '\0';
    if (HeapTupleIsValid(row)) { // else dropped just now
        const auto* columns = reinterpret_cast<const FormData_pg_class*>(GETSTRUCT(row));
        kind = columns->relkind;
        found->temporary |= columns->relpersistence == RELPERSISTENCE_TEMP;
        ReleaseSysCache(row);
    }
    if (kind == '\0' || !is_allowed(relation, right, privileges)) {
        found->valid = false;
        return {InvalidOid, '\0'};
    }
    return {relation, kind};
}

/// Is the relation of a kind that the words ask for? PostgreSQL allows ALTER TABLE for nearly
/// anything, and has its own idea of the rest.
bool is_of_type(char kind, ObjectType type, bool renames) {
    switch (type) {
    case OBJECT_INDEX:
        return renames || kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX;
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

// ---- ALTER

/// Does this form of ALTER TABLE lock the children as it locks the parent?
bool reaches_children(const AlterTableCmd* command, bool partitioned) {
    switch (command->subtype) {
    case AT_AddColumn:
    case AT_ColumnDefault:
    case AT_DropNotNull:
    case AT_SetNotNull:
    case AT_DropExpression:
    case AT_SetStatistics:
    case AT_SetStorage:
    case AT_DropColumn:
    case AT_DropConstraint:
    case AT_AlterColumnType:
    case AT_ValidateConstraint:
        return true;
    case AT_AddConstraint: {
        // CHECK goes down the tree; keys and foreign keys are for partitions only.
        if (command->def == nullptr || !IsA(command->def, Constraint))
            return partitioned;
        ConstrType type = reinterpret_cast<const Constraint*>(command->def)->contype;
        return type == CONSTR_CHECK || type == CONSTR_NOTNULL || partitioned;
    }
    case AT_AddIndex:
    case AT_EnableTrig:
    case AT_EnableAlwaysTrig:
    case AT_EnableReplicaTrig:
    case AT_EnableTrigAll:
    case AT_EnableTrigUser:
    case AT_DisableTrig:
    case AT_DisableTrigAll:
    case AT_DisableTrigUser:
        return partitioned;
    default:
        return false;
    }
}

/// The other table that the form names.
void add_other_table(Collection* found, const AlterTableCmd* command) {
    switch (command->subtype) {
    case AT_AttachPartition:
    case AT_DetachPartition: {
        const RangeVar* name = reinterpret_cast<const PartitionCmd*>(command->def)->name;
        Oid partition = look_up(found, name, Right::own).relation;
        // A partitioned index waits for its index at ACCESS EXCLUSIVE too.
        if (OidIsValid(partition))
            add(found, partition, AccessExclusiveLock);
        break;
    }
    case AT_AddConstraint: {
        const auto* constraint = reinterpret_cast<const Constraint*>(command->def);
        if (constraint == nullptr || !IsA(constraint, Constraint) ||
            constraint->contype != CONSTR_FOREIGN)
            break;
        // A privilege on columns would do for the foreign key, and is left to the attempt.
        Oid referenced = RangeVarGetRelid(constraint->pktable, NoLock, true);
        if (OidIsValid(referenced) && is_allowed(referenced, Right::privilege, ACL_REFERENCES))
            add(found, referenced, ShareRowExclusiveLock);
        break;
    }
    default:
        break;
    }
}

void collect(Collection* found, const AlterTableStmt* statement) {
    auto [relation, kind] = look_up(found, statement->relation, Right::own);
    if (!OidIsValid(relation))
        return;
    if (!is_of_type(kind, statement->objtype, false)) {
        found->valid = false;
        return;
    }
    LOCKMODE mode = AlterTableGetLockLevel(statement->cmds);
    add(found, relation, mode);
    bool partitioned = kind == RELKIND_PARTITIONED_TABLE;
    bool children = false;
    for (int i = 0; i < list_length(statement->cmds); i++) {
        const auto* command = static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i));
        children |= reaches_children(command, partitioned);
        add_other_table(found, command);
    }
    if (children && statement->relation->inh)
        add_descendants(found, relation, mode);
}

void collect(Collection* found, const RenameStmt* statement) {
    auto [relation, kind] = look_up(found, statement->relation, Right::own);
    if (!OidIsValid(relation))
        return;
    if (!is_of_type(kind, statement->renameType, true)) {
        found->valid = false;
        return;
    }
    bool is_index = kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX;
    bool renames_itself =
        statement->renameType != OBJECT_COLUMN && statement->renameType != OBJECT_TABCONSTRAINT;
    add(found, relation,
        is_index && renames_itself ? ShareUpdateExclusiveLock : AccessExclusiveLock);
    if (!renames_itself && statement->relation->inh)
        add_descendants(found, relation, AccessExclusiveLock);
}

void collect(Collection* found, const AlterObjectSchemaStmt* statement) {
    auto [relation, kind] = look_up(found, statement->relation, Right::own);
    if (!OidIsValid(relation))
        return;
    if (!is_of_type(kind, statement->objectType, false) || kind == RELKIND_INDEX ||
        kind == RELKIND_PARTITIONED_INDEX)
        found->valid = false;
    else
        add(found, relation, AccessExclusiveLock);
}

// ---- DROP

void add_dropped_relation(Collection* found, const RangeVar* name, ObjectType type) {
    auto [relation, kind] = look_up(found, name, Right::own_or_schema);
    if (!OidIsValid(relation))
        return;
    bool is_table = kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE;
    if (!is_of_type(kind, type, false) || (type == OBJECT_TABLE && !is_table)) {
        found->valid = false;
        return;
    }
    if (type == OBJECT_INDEX) {
        Oid table = IndexGetRelation(relation, true);
        if (OidIsValid(table))
            add(found, table, AccessExclusiveLock);
    }
    if (get_rel_relispartition(relation)) {
        Oid parent = get_partition_parent(relation, true);
        if (OidIsValid(parent))
            add(found, parent, AccessExclusiveLock);
    }
    add(found, relation, AccessExclusiveLock);
    // Partitions go with their parent; children of other kinds stop the statement or need CASCADE.
    if (kind == RELKIND_PARTITIONED_TABLE || kind == RELKIND_PARTITIONED_INDEX)
        add_descendants(found, relation, AccessExclusiveLock);
}

void collect(Collection* found, const DropStmt* statement) {
    for (int i = 0; i < list_length(statement->objects) && found->valid; i++) {
        auto* names = static_cast<List*>(list_nth(statement->objects, i));
        switch (statement->removeType) {
        case OBJECT_TABLE:
        case OBJECT_INDEX:
        case OBJECT_VIEW:
        case OBJECT_MATVIEW:
        case OBJECT_SEQUENCE:
        case OBJECT_FOREIGN_TABLE:
            add_dropped_relation(found, makeRangeVarFromNameList(names), statement->removeType);
            break;
        case OBJECT_TRIGGER:
        case OBJECT_RULE: {
            // The last name is the trigger's or the rule's own.
            int qualified = list_length(names) - 1;
            if (qualified < 1)
                break;
            List* table_name = list_truncate(list_copy(names), qualified);
            Oid table = look_up(found, makeRangeVarFromNameList(table_name), Right::own).relation;
            if (OidIsValid(table))
                add(found, table, AccessExclusiveLock);
            break;
        }
        default:
            found->valid = false;
            break;
        }
    }
}

// ---- The rest

void collect(Collection* found, const TruncateStmt* statement) {
    for (int i = 0; i < list_length(statement->relations) && found->valid; i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        Oid relation = look_up(found, name, Right::privilege, ACL_TRUNCATE).relation;
        if (!OidIsValid(relation))
            return;
        add(found, relation, AccessExclusiveLock);
        if (name->inh)
            add_descendants(found, relation, AccessExclusiveLock);
    }
}

/// What anybody needs who wants to take that mode by LOCK TABLE.
AclMode privileges_for(LOCKMODE mode) {
    if (mode == AccessShareLock)
        return ACL_SELECT;
    if (mode == RowShareLock || mode == RowExclusiveLock)
        return ACL_INSERT | ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;
    return ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;
}

void collect(Collection* found, const LockStmt* statement) {
    for (int i = 0; i < list_length(statement->relations) && found->valid; i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        LOCKMODE mode = statement->mode;
        auto [relation, kind] = look_up(found, name, Right::privilege, privileges_for(mode));
        if (!OidIsValid(relation))
            return;
        if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW) {
            found->valid = false;
            return;
        }
        add(found, relation, mode);
        if (name->inh && kind != RELKIND_VIEW)
            add_descendants(found, relation, mode);
    }
}

void add_one(Collection* found, const RangeVar* name, Right right, AclMode privileges,
             LOCKMODE mode, bool partitions) {
    auto [relation, kind] = look_up(found, name, right, privileges);
    if (!OidIsValid(relation))
        return;
    add(found, relation, mode);
    if (partitions && kind == RELKIND_PARTITIONED_TABLE)
        add_descendants(found, relation, mode);
}

void collect(Collection* found, const ReindexStmt* statement) {
    Oid relation = look_up(found, statement->relation, Right::own).relation;
    if (!OidIsValid(relation))
        return;
    if (statement->kind != REINDEX_OBJECT_INDEX) {
        add(found, relation, ShareLock);
        return;
    }
    Oid table = IndexGetRelation(relation, true);
    if (!OidIsValid(table)) {
        found->valid = false;
        return;
    }
    add(found, table, ShareLock);
    add(found, relation, AccessExclusiveLock);
}

void collect(Collection* found, const CommentStmt* statement) {
    auto* names = reinterpret_cast<List*>(statement->object);
    switch (statement->objtype) {
    case OBJECT_COLUMN: {
        int qualified = list_length(names) - 1; // the last one is the column
        if (qualified < 1)
            return;
        names = list_truncate(list_copy(names), qualified);
        break;
    }
    case OBJECT_TABLE:
    case OBJECT_VIEW:
    case OBJECT_MATVIEW:
    case OBJECT_INDEX:
    case OBJECT_SEQUENCE:
    case OBJECT_FOREIGN_TABLE:
        break;
    default:
        return; // no relation's, or one that the attempt will show
    }
    add_one(found, makeRangeVarFromNameList(names), Right::own, 0, ShareUpdateExclusiveLock, false);
}

void collect_from(Collection* found, const Node* statement) {
    switch (nodeTag(statement)) {
    case T_AlterTableStmt:
        collect(found, reinterpret_cast<const AlterTableStmt*>(statement));
        break;
    case T_RenameStmt:
        collect(found, reinterpret_cast<const RenameStmt*>(statement));
        break;
    case T_AlterObjectSchemaStmt:
        collect(found, reinterpret_cast<const AlterObjectSchemaStmt*>(statement));
        break;
    case T_AlterSeqStmt:
        add_one(found, reinterpret_cast<const AlterSeqStmt*>(statement)->sequence, Right::own, 0,
                ShareRowExclusiveLock, false);
        break;
    case T_DropStmt:
        collect(found, reinterpret_cast<const DropStmt*>(statement));
        break;
    case T_TruncateStmt:
        collect(found, reinterpret_cast<const TruncateStmt*>(statement));
        break;
    case T_LockStmt:
        collect(found, reinterpret_cast<const LockStmt*>(statement));
        break;
    case T_IndexStmt: {
        const auto* index = reinterpret_cast<const IndexStmt*>(statement);
        add_one(found, index->relation, Right::own, 0, ShareLock, index->relation->inh);
        break;
    }
    case T_CreateTrigStmt: {
        const auto* trigger = reinterpret_cast<const CreateTrigStmt*>(statement);
        add_one(found, trigger->relation, Right::privilege, ACL_TRIGGER, ShareRowExclusiveLock,
                trigger->row);
        break;
    }
    case T_RuleStmt:
        add_one(found, reinterpret_cast<const RuleStmt*>(statement)->relation, Right::own, 0,
                AccessExclusiveLock, false);
        break;
    case T_RefreshMatViewStmt: {
        const auto* refresh = reinterpret_cast<const RefreshMatViewStmt*>(statement);
        add_one(found, refresh->relation, Right::own, 0,
                refresh->concurrent ? ExclusiveLock : AccessExclusiveLock, false);
        break;
    }
    case T_ReindexStmt:
        collect(found, reinterpret_cast<const ReindexStmt*>(statement));
        break;
    case T_CommentStmt:
        collect(found, reinterpret_cast<const CommentStmt*>(statement));
        break;
    case compat::kClusterStatement:
        add_one(found, compat::clustered_table(statement), Right::own, 0, AccessExclusiveLock,
                false);
        break;
    default:
        break;
    }
}

} // namespace

LockTargets find_lock_targets(const Node* statement) {
    Collection found = {};
    found.valid = true;
    found.room = 4;
    found.locks = static_cast<LockTarget*>(palloc(sizeof(LockTarget) * 4));
    collect_from(&found, statement);
    std::size_t count = found.valid ? static_cast<std::size_t>(found.count) : 0;
    return {{found.locks, count}, found.temporary, found.temporary};
}

} // namespace lockguard::pg
