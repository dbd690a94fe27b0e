#include "guard/lock_targets.h"

#include "guard/inheritance.h"
#include "guard/lock_collection.h"
#include "guard/lock_targets_alter.h"
#include "guard/lock_targets_create.h"
#include "guard/lock_targets_drop.h"
#include "guard/lock_targets_tablespace.h"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"
}

namespace lockguard::pg {

namespace {

/// Tables that refer to these are emptied with them. Returns them all.
List* add_truncated_with(Collection* found, List* relations) {
    while (const List* more = heap_truncate_find_FKs(relations)) {
        for (int i = 0; i < list_length(more); i++) {
            Oid relation = list_nth_oid(more, i);
            if (!is_allowed(relation, Right::privilege, ACL_TRUNCATE)) {
                found->valid = false;
                return relations;
            }
            add(found, relation, AccessExclusiveLock);
            relations = lappend_oid(relations, relation);
        }
    }
    return relations;
}

void add_restarted_sequences(Collection* found, const List* tables) {
    for (int i = 0; i < list_length(tables); i++) {
        const List* sequences = getOwnedSequences(list_nth_oid(tables, i));
        for (int j = 0; j < list_length(sequences); j++) {
            Oid sequence = list_nth_oid(sequences, j);
            if (is_allowed(sequence, Right::own, 0))
                add(found, sequence, AccessExclusiveLock);
            else
                found->valid = false;
        }
    }
}

void collect(Collection* found, const TruncateStmt* statement) {
    List* relations = NIL;
    for (int i = 0; i < list_length(statement->relations) && found->valid; i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        Oid relation = look_up(found, name, Right::privilege, ACL_TRUNCATE).relation;
        if (!OidIsValid(relation))
            return;
        add(found, relation, AccessExclusiveLock);
        if (name->inh)
            add_accessible_descendants(found, relation, AccessExclusiveLock);
        List* all = name->inh ? with_descendants(relation) : list_make1_oid(relation);
        relations = list_concat_unique_oid(relations, all);
    }
    if (statement->behavior == DROP_CASCADE)
        relations = add_truncated_with(found, relations);
    if (statement->restart_seqs && found->valid)
        add_restarted_sequences(found, relations);
}

void collect(Collection* found, const LockStmt* statement) {
    for (int i = 0; i < list_length(statement->relations) && found->valid; i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        LOCKMODE mode = statement->mode;
        auto [relation, kind] =
            look_up(found, name, Right::privilege, compat::privileges_to_lock(mode));
        if (!OidIsValid(relation))
            return;
        if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW) {
            found->valid = false;
            return;
        }
        add(found, relation, mode);
        if (kind == RELKIND_VIEW)
            found->has_others = true; // what it reads is locked as well: left to the attempt
        else if (name->inh)
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
    auto [relation, kind] = look_up(found, statement->relation, Right::maintain);
    if (!OidIsValid(relation))
        return;
    if (is_index(kind) != (statement->kind == REINDEX_OBJECT_INDEX)) {
        found->valid = false;
        return;
    }
    if (!is_index(kind)) {
        add(found, relation, ShareLock);
        return;
    }
    Oid table = IndexGetRelation(relation, true);
    if (OidIsValid(table))
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
        return; // no relation's, or one that is locked in the weakest mode only
    }
    add_one(found, makeRangeVarFromNameList(names), Right::own, 0, ShareUpdateExclusiveLock, false);
}

void add_for_policy(Collection* found, const RangeVar* name) {
    auto [table, kind] = look_up(found, name, Right::own);
    if (!OidIsValid(table))
        return;
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
        found->valid = false;
    else
        add(found, table, AccessExclusiveLock);
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
    case T_AlterTableMoveAllStmt:
        collect(found, reinterpret_cast<const AlterTableMoveAllStmt*>(statement));
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
    case T_CreateStmt:
        collect(found, reinterpret_cast<const CreateStmt*>(statement));
        break;
    case T_CreatePolicyStmt:
        add_for_policy(found, reinterpret_cast<const CreatePolicyStmt*>(statement)->table);
        break;
    case T_AlterPolicyStmt:
        add_for_policy(found, reinterpret_cast<const AlterPolicyStmt*>(statement)->table);
        break;
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
        add_one(found, refresh->relation, Right::maintain, 0,
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
        add_one(found, compat::clustered_table(statement), Right::maintain, 0, AccessExclusiveLock,
                false);
        break;
    default:
        break;
    }
}

} // namespace

LockTargets find_lock_targets(const Node* statement) {
    Collection found = start_collection();
    collect_from(&found, statement);
    if (!found.valid)
        found.locks.truncate(0);
    bool only_private = found.valid && found.has_private && !found.has_others;
    return {found.locks.span(), only_private, only_private && !found.has_new};
}

} // namespace lockguard::pg
