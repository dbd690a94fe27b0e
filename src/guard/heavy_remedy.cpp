#include "guard/heavy_remedy.h"

#include "boundary/bridge.h"
#include "guard/statement_options.h"

extern "C" {
#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
}

namespace lockguard::pg {

using core::DdlRemedy;
using core::HeavyKind;

namespace {

constexpr ChosenRemedy kNone = {DdlRemedy::none, nullptr};

bool names_partitioned(const RangeVar* name) {
    Oid relation = RangeVarGetRelid(name, NoLock, true);
    return OidIsValid(relation) && get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE;
}

ChosenRemedy for_constraint(const Constraint* constraint, HeavyKind kind) {
    switch (constraint->contype) {
    case CONSTR_CHECK:
        return kind == HeavyKind::scan ? ChosenRemedy{DdlRemedy::not_valid_check, nullptr} : kNone;
    case CONSTR_NOTNULL:
        return kind == HeavyKind::scan && compat::kNotNullIsConstraint
                   ? ChosenRemedy{DdlRemedy::not_valid_not_null, nullptr}
                   : kNone;
    case CONSTR_FOREIGN:
        return kind == HeavyKind::validate_foreign_key
                   ? ChosenRemedy{DdlRemedy::not_valid_foreign_key, nullptr}
                   : kNone;
    case CONSTR_PRIMARY:
        if (kind == HeavyKind::scan)
            return {DdlRemedy::not_null_first, nullptr};
        [[fallthrough]];
    case CONSTR_UNIQUE:
        return kind == HeavyKind::build_index ? ChosenRemedy{DdlRemedy::using_index, nullptr}
                                              : kNone;
    default:
        return kNone;
    }
}

/// A column with a default that is not the same for all rows is filled; its constraints are
/// checked.
ChosenRemedy for_new_column(const ColumnDef* column, HeavyKind kind) {
    if (kind == HeavyKind::rewrite)
        return {DdlRemedy::default_then_backfill, column->colname};
    for (int i = 0; i < list_length(column->constraints); i++) {
        ChosenRemedy chosen =
            for_constraint(static_cast<const Constraint*>(list_nth(column->constraints, i)), kind);
        if (chosen.remedy != DdlRemedy::none)
            return chosen;
    }
    return kNone;
}

ChosenRemedy for_attach(const PartitionCmd* command, HeavyKind kind, Oid relation) {
    if (kind != HeavyKind::scan)
        return kNone;
    // Either the partition itself is scanned, or the default partition.
    Oid partition = RangeVarGetRelid(command->name, NoLock, true);
    return {relation == partition || !OidIsValid(relation) ? DdlRemedy::attach_with_check
                                                           : DdlRemedy::check_on_default,
            nullptr};
}

ChosenRemedy for_command(const AlterTableCmd* command, HeavyKind kind, Oid relation) {
    switch (command->subtype) {
    case AT_SetNotNull:
        if (kind != HeavyKind::scan)
            return kNone;
        return {compat::kNotNullIsConstraint ? DdlRemedy::not_valid_not_null
                                             : DdlRemedy::check_then_not_null,
                command->name};
    case AT_AddConstraint:
        return for_constraint(reinterpret_cast<const Constraint*>(command->def), kind);
    case AT_AddColumn:
        return for_new_column(reinterpret_cast<const ColumnDef*>(command->def), kind);
    case AT_AlterColumnType:
        return kind != HeavyKind::none ? ChosenRemedy{DdlRemedy::new_column, command->name} : kNone;
    case AT_AttachPartition:
        return for_attach(reinterpret_cast<const PartitionCmd*>(command->def), kind, relation);
    case AT_DetachPartition:
        return reinterpret_cast<const PartitionCmd*>(command->def)->concurrent
                   ? kNone
                   : ChosenRemedy{DdlRemedy::detach_concurrently, nullptr};
    default:
        return kNone;
    }
}

ChosenRemedy for_alter_table(const AlterTableStmt* statement, HeavyKind kind, Oid relation) {
    for (int i = 0; i < list_length(statement->cmds); i++) {
        ChosenRemedy chosen = for_command(
            static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i)), kind, relation);
        if (chosen.remedy != DdlRemedy::none)
            return chosen;
    }
    return kNone;
}

ChosenRemedy for_index(const IndexStmt* statement, HeavyKind kind) {
    if (kind != HeavyKind::build_index || statement->concurrent)
        return kNone;
    return {names_partitioned(statement->relation) ? DdlRemedy::index_by_partition
                                                   : DdlRemedy::concurrently,
            nullptr};
}

ChosenRemedy for_lock(const LockStmt* statement) {
    for (int i = 0; i < list_length(statement->relations); i++) {
        const auto* name = static_cast<const RangeVar*>(list_nth(statement->relations, i));
        if (name->inh && names_partitioned(name))
            return {DdlRemedy::lock_only_parent, nullptr};
    }
    return kNone;
}

} // namespace

ChosenRemedy choose_remedy(const Node* statement, HeavyKind kind, Oid relation) {
    switch (nodeTag(statement)) {
    case T_AlterTableStmt:
        return for_alter_table(reinterpret_cast<const AlterTableStmt*>(statement), kind, relation);
    case T_IndexStmt:
        return for_index(reinterpret_cast<const IndexStmt*>(statement), kind);
    case T_ReindexStmt: {
        const auto* reindex = reinterpret_cast<const ReindexStmt*>(statement);
        return kind == HeavyKind::build_index && !says_concurrently(reindex->params)
                   ? ChosenRemedy{DdlRemedy::reindex_concurrently, nullptr}
                   : kNone;
    }
    case T_RefreshMatViewStmt: {
        const auto* refresh = reinterpret_cast<const RefreshMatViewStmt*>(statement);
        return kind != HeavyKind::none && !refresh->concurrent
                   ? ChosenRemedy{DdlRemedy::refresh_concurrently, nullptr}
                   : kNone;
    }
    case T_DropStmt: {
        const auto* drop = reinterpret_cast<const DropStmt*>(statement);
        return drop->removeType == OBJECT_INDEX && !drop->concurrent
                   ? ChosenRemedy{DdlRemedy::drop_concurrently, nullptr}
                   : kNone;
    }
    case T_CreateStmt:
        if (reinterpret_cast<const CreateStmt*>(statement)->partbound == nullptr)
            return kNone;
        return {kind == HeavyKind::scan ? DdlRemedy::check_on_default
                                        : DdlRemedy::create_then_attach,
                nullptr};
    case T_LockStmt:
        return for_lock(reinterpret_cast<const LockStmt*>(statement));
    default:
        return kNone;
    }
}

std::string_view advice_for(const Node* statement, HeavyKind kind, Oid relation,
                            std::string_view relation_text) {
    const ChosenRemedy chosen = choose_remedy(statement, kind, relation);
    core::RemedySubject subject = {};
    subject.relation = relation_text;
    if (chosen.column != nullptr)
        subject.column = quote_identifier(chosen.column);
    return call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::advice_text(chosen.remedy, subject, memory);
    });
}

} // namespace lockguard::pg
