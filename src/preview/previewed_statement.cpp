#include "preview/previewed_statement.h"

#include "guard/file_map.h"
#include "guard/inheritance.h"
#include "guard/lock_target_facts.h"
#include "guard/statement_options.h"

extern "C" {
#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

using core::Unseen;

namespace {

/// What is about relations and what hangs on them, and can be rolled back. Whoever adds to the
/// list: what does the statement do before it announces it, and what is left of it when it is
/// rolled back? (See why_not_run().)
bool is_previewed(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_AlterCollationStmt:
    case T_AlterDefaultPrivilegesStmt:
    case T_AlterDomainStmt:
    case T_AlterEnumStmt:
    case T_AlterFunctionStmt:
    case T_AlterObjectDependsStmt:
    case T_AlterObjectSchemaStmt:
    case T_AlterOperatorStmt:
    case T_AlterOwnerStmt:
    case T_AlterPolicyStmt:
    case T_AlterSeqStmt:
    case T_AlterStatsStmt:
    case T_AlterTableMoveAllStmt:
    case T_AlterTableStmt:
    case T_AlterTypeStmt:
    case T_CommentStmt:
    case T_CompositeTypeStmt:
    case T_CreateDomainStmt:
    case T_CreateEnumStmt:
    case T_CreateForeignTableStmt:
    case T_CreateFunctionStmt:
    case T_CreatePolicyStmt:
    case T_CreateRangeStmt:
    case T_CreateSchemaStmt:
    case T_CreateSeqStmt:
    case T_CreateStatsStmt:
    case T_CreateStmt:
    case T_CreateTableAsStmt:
    case T_CreateTrigStmt:
    case T_DefineStmt:
    case T_DropOwnedStmt:
    case T_DropStmt:
    case T_GrantStmt:
    case T_IndexStmt:
    case T_LockStmt:
    case T_ReassignOwnedStmt:
    case T_RefreshMatViewStmt:
    case T_RenameStmt:
    case T_RuleStmt:
    case T_SecLabelStmt:
    case T_TruncateStmt:
    case T_ViewStmt:
        return true;
    case T_ReindexStmt:
        return reinterpret_cast<const ReindexStmt*>(statement)->relation != nullptr;
    case T_VacuumStmt:
        return fully_vacuumed_table(reinterpret_cast<const VacuumStmt*>(statement)) != nullptr;
    case compat::kClusterStatement:
        return compat::clustered_table(statement) != nullptr;
    default:
        return into_clause_of(statement) != nullptr;
    }
}

[[noreturn]] void refuse_kind(CommandTag tag, const Node* statement) {
    // SELECT and the like are asked about otherwise.
    switch (nodeTag(statement)) {
    case T_SelectStmt:
    case T_InsertStmt:
    case T_UpdateStmt:
    case T_DeleteStmt:
    case T_MergeStmt:
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("ddl_preview() does not preview %s", GetCommandTagName(tag)),
                 errdetail("It is no DDL statement."), errhint("EXPLAIN shows what it would do.")));
    default:
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("ddl_preview() does not preview %s", GetCommandTagName(tag)),
                 errdetail("It is no DDL statement on relations, or one that is not rolled back "
                           "whole."),
                 errhint("Statements on tables, indexes, views, sequences, triggers, rules, "
                         "policies, types, functions and schemas can be previewed, one at a "
                         "time.")));
    }
}

Oid relation_of(const RangeVar* name) {
    return name == nullptr ? InvalidOid : RangeVarGetRelid(name, NoLock, true);
}

char relkind_of(const RangeVar* name) {
    Oid relation = relation_of(name);
    return OidIsValid(relation) ? get_rel_relkind(relation) : '\0';
}

/// Counts them without opening one.
bool has_many_partitions(Oid relation) {
    if (!OidIsValid(relation) || !has_children(relation))
        return false;
    List* all = with_descendants(relation);
    bool many = list_length(all) - 1 > core::kMostPartitions;
    list_free(all);
    return many;
}

Unseen of_alter_table(const AlterTableStmt* statement) {
    for (int i = 0; i < list_length(statement->cmds); i++) {
        const auto* command = static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i));
        switch (command->subtype) {
        case AT_DetachPartitionFinalize:
            return Unseen::commits;
        case AT_DetachPartition:
            if (reinterpret_cast<const PartitionCmd*>(command->def)->concurrent)
                return Unseen::commits;
            break;
        case AT_SetTableSpace:
            return Unseen::copies_files;
        default:
            break;
        }
    }
    return has_many_partitions(relation_of(statement->relation)) ? Unseen::many_partitions
                                                                 : Unseen::nothing;
}

Unseen of_truncate(const TruncateStmt* statement) {
    for (int i = 0; i < list_length(statement->relations); i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        Oid relation = relation_of(name);
        if (!OidIsValid(relation))
            continue;
        if (has_many_partitions(relation))
            return Unseen::many_partitions;
        List* all = name->inh ? with_descendants(relation) : list_make1_oid(relation);
        // With CASCADE others are truncated as well, and all of those must be known.
        if (statement->behavior == DROP_CASCADE)
            return Unseen::runs_triggers;
        for (int j = 0; j < list_length(all); j++) {
            // Not from the relation cache: nothing is locked, and who drops a table may commit
            // while it is made an entry there, which fails half way.
            Oid table = list_nth_oid(all, j);
            if (get_rel_relkind(table) == RELKIND_FOREIGN_TABLE)
                return Unseen::foreign_table;
            if (has_truncate_trigger(table))
                return Unseen::runs_triggers;
        }
    }
    return Unseen::nothing;
}

Unseen of_drop(const DropStmt* statement) {
    if (statement->concurrent)
        return Unseen::commits;
    if (statement->removeType != OBJECT_TABLE && statement->removeType != OBJECT_INDEX)
        return Unseen::nothing;
    for (int i = 0; i < list_length(statement->objects); i++) {
        auto* names = static_cast<List*>(list_nth(statement->objects, i));
        if (has_many_partitions(relation_of(makeRangeVarFromNameList(names))))
            return Unseen::many_partitions;
    }
    return Unseen::nothing;
}

Unseen of_lock(const LockStmt* statement) {
    for (int i = 0; i < list_length(statement->relations); i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        if (name->inh && has_many_partitions(relation_of(name)))
            return Unseen::many_partitions;
    }
    return Unseen::nothing;
}

Unseen of_reindex(const ReindexStmt* statement) {
    char kind = relkind_of(statement->relation);
    return says_concurrently(statement->params) || kind == RELKIND_PARTITIONED_TABLE ||
                   kind == RELKIND_PARTITIONED_INDEX
               ? Unseen::commits
               : Unseen::nothing;
}

/// Does it alter a sequence of the table, or the relation itself, if that is one?
bool alters_sequence(Oid relation, const AlterTableCmd* command) {
    switch (command->subtype) {
    case AT_SetIdentity:
        return true;
    case AT_AlterColumnType: { // that of an identity column's sequence as well
        HeapTuple column =
            OidIsValid(relation) ? SearchSysCacheAttName(relation, command->name) : nullptr;
        if (!HeapTupleIsValid(column))
            return false;
        const bool identity =
            reinterpret_cast<Form_pg_attribute>(GETSTRUCT(column))->attidentity != '\0';
        ReleaseSysCache(column);
        return identity;
    }
    case AT_SetLogged:
    case AT_SetUnLogged:
        if (!OidIsValid(relation))
            return false;
        // A table with rows: its rewrite comes before, and ends the preview.
        return get_rel_relkind(relation) == RELKIND_SEQUENCE ||
               (getOwnedSequences(relation) != NIL &&
                size_of_unlocked(core::HeavyKind::scan, relation).is_empty);
    default:
        return false;
    }
}

/// sequence.c takes its ROW EXCLUSIVE for the whole transaction, in lock_and_open_sequence(): no
/// savepoint gives it back, and DDL of others on the sequence would wait for it.
bool keeps_lock_on_sequence(const Node* statement) {
    if (!IsTransactionBlock() && !IsSubTransaction())
        return false; // then it ends with the preview
    switch (nodeTag(statement)) {
    case T_AlterSeqStmt:
        return true;
    case T_TruncateStmt:
        return reinterpret_cast<const TruncateStmt*>(statement)->restart_seqs;
    case T_AlterTableStmt: {
        const auto* alter = reinterpret_cast<const AlterTableStmt*>(statement);
        Oid relation = relation_of(alter->relation);
        for (int i = 0; i < list_length(alter->cmds); i++) {
            if (alters_sequence(relation, static_cast<AlterTableCmd*>(list_nth(alter->cmds, i))))
                return true;
        }
        return false;
    }
    default:
        return false;
    }
}

/// The forms that look at what the tables have. See AlterDomainStmt.subtype.
bool scans_tables(const AlterDomainStmt* statement) {
    switch (static_cast<char>(statement->subtype)) {
    case 'O': // SET NOT NULL
    case 'V': // VALIDATE CONSTRAINT
        return true;
    case 'C': { // ADD CONSTRAINT
        const auto* constraint = reinterpret_cast<const Constraint*>(statement->def);
        return !constraint->skip_validation;
    }
    default:
        return false;
    }
}

} // namespace

WorkSize size_of_unlocked(core::HeavyKind kind, Oid relation) {
    const bool locked = ConditionalLockRelationOid(relation, AccessShareLock);
    if (!locked)
        AcceptInvalidationMessages(); // which the lock would have done
    WorkSize size = size_of_work(kind, relation);
    if (locked)
        UnlockRelationOid(relation, AccessShareLock);
    return size;
}

Oid filled_default_partition(const CreateStmt* statement) {
    if (statement->partbound == nullptr || list_length(statement->inhRelations) != 1)
        return InvalidOid;
    Oid parent = relation_of(static_cast<const RangeVar*>(linitial(statement->inhRelations)));
    Oid found = OidIsValid(parent) ? get_default_partition_oid(parent) : InvalidOid;
    if (!OidIsValid(found))
        return InvalidOid;
    // It may have partitions of its own.
    if (get_rel_relkind(found) == RELKIND_PARTITIONED_TABLE)
        return found;
    return size_of_unlocked(core::HeavyKind::scan, found).is_empty ? InvalidOid : found;
}

const RangeVar* fully_vacuumed_table(const VacuumStmt* statement) {
    if (!statement->is_vacuumcmd || !has_option(statement->options, "full") ||
        list_length(statement->rels) != 1)
        return nullptr;
    return static_cast<const VacuumRelation*>(linitial(statement->rels))->relation;
}

const IntoClause* into_clause_of(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_CreateTableAsStmt:
        return reinterpret_cast<const CreateTableAsStmt*>(statement)->into;
    case T_SelectStmt: {
        // Of a UNION the leftmost has it.
        const auto* select = reinterpret_cast<const SelectStmt*>(statement);
        while (select->larg != nullptr)
            select = select->larg;
        return select->intoClause;
    }
    default:
        return nullptr;
    }
}

Unseen why_not_run(const Node* statement) {
    if (changes_file_map(statement))
        return Unseen::mapped_catalog;
    if (keeps_lock_on_sequence(statement))
        return Unseen::keeps_lock;
    switch (nodeTag(statement)) {
    case T_AlterTableStmt:
        return of_alter_table(reinterpret_cast<const AlterTableStmt*>(statement));
    case T_AlterTableMoveAllStmt:
        return Unseen::copies_files;
    case T_AlterDomainStmt:
        return scans_tables(reinterpret_cast<const AlterDomainStmt*>(statement)) ? Unseen::domain
                                                                                 : Unseen::nothing;
    case T_CreateStmt:
        return OidIsValid(filled_default_partition(reinterpret_cast<const CreateStmt*>(statement)))
                   ? Unseen::default_partition
                   : Unseen::nothing;
    case T_IndexStmt: {
        const auto* index = reinterpret_cast<const IndexStmt*>(statement);
        if (index->concurrent)
            return Unseen::commits;
        return index->relation->inh && has_many_partitions(relation_of(index->relation))
                   ? Unseen::many_partitions
                   : Unseen::nothing;
    }
    case T_DropStmt:
        return of_drop(reinterpret_cast<const DropStmt*>(statement));
    case T_TruncateStmt:
        return of_truncate(reinterpret_cast<const TruncateStmt*>(statement));
    case T_LockStmt:
        return of_lock(reinterpret_cast<const LockStmt*>(statement));
    case T_ReindexStmt:
        return of_reindex(reinterpret_cast<const ReindexStmt*>(statement));
    case T_VacuumStmt:
        return Unseen::commits;
    case compat::kClusterStatement:
        return says_concurrently(compat::repack_options(statement)) ||
                       relkind_of(compat::clustered_table(statement)) == RELKIND_PARTITIONED_TABLE
                   ? Unseen::commits
                   : Unseen::nothing;
    default:
        return Unseen::nothing;
    }
}

void point_into_previewed(void* text) {
    int position = geterrposition();
    if (position > 0) {
        errposition(0);
        internalerrposition(position);
        internalerrquery(static_cast<const char*>(text));
    } else {
        errcontext("preview of \"%s\"", static_cast<const char*>(text));
    }
}

PreviewedStatement parse_previewed(const char* text) {
    List* statements = pg_parse_query(text);
    const int count = list_length(statements);
    if (count == 0)
        ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("there is no statement to preview"),
                        errhint("Give ddl_preview() the text of one DDL statement.")));
    if (count > 1)
        ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
                        errmsg("ddl_preview() previews one statement at a time"),
                        errdetail("The text has %d statements.", count),
                        errhint("What the second one does may depend on the first: run the first "
                                "before, or preview each on its own.")));
    auto* raw = static_cast<RawStmt*>(linitial(statements));
    PreviewedStatement statement = {text, raw, CreateCommandTag(raw->stmt)};
    if (!is_previewed(raw->stmt))
        refuse_kind(statement.tag, raw->stmt);
    return statement;
}

} // namespace lockguard::pg
