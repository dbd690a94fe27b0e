#include "guard/ddl_guard.h"

#include "boundary/guarded_commands.h"
#include "boundary/settings.h"
#include "guard/file_map.h"
#include "guard/lock_targets_create.h"
#include "guard/lock_timeout_run.h"
#include "guard/low_priority_run.h"
#include "guard/nesting.h"
#include "guard/stall_limit.h"
#include "guard/statement_options.h"
#include "sessions/interrupt_watch.h"
#include "sessions/shared_snapshots.h"
#include "shmem/counters.h"
#include "shmem/imported_snapshots.h"
#include "shmem/prepared_names.h"

extern "C" {
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
}

namespace lockguard::features {

namespace {

ProcessUtility_hook_type next_hook;

// ---- Which statements

/// Of a table or index that need not exist; '\0' where it does not. Takes no lock on it.
char relkind_of(const RangeVar* name) {
    Oid relation = RangeVarGetRelid(name, NoLock, true);
    return OidIsValid(relation) ? get_rel_relkind(relation) : '\0';
}

bool detaches_concurrently(const AlterTableStmt* statement) {
    for (int i = 0; i < list_length(statement->cmds); i++) {
        const auto* command = static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i));
        if (command->subtype == AT_DetachPartition &&
            reinterpret_cast<const PartitionCmd*>(command->def)->concurrent)
            return true;
    }
    return false;
}

/// Does the statement commit on its way, or wait for all other transactions by design? Such a
/// statement can't run with a setting that lives in one transaction, and stopped half way it leaves
/// an invalid index behind.
bool commits_on_its_way(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_IndexStmt:
        return reinterpret_cast<const IndexStmt*>(statement)->concurrent;
    case T_DropStmt:
        return reinterpret_cast<const DropStmt*>(statement)->concurrent;
    case T_AlterTableStmt:
        return detaches_concurrently(reinterpret_cast<const AlterTableStmt*>(statement));
    case T_ReindexStmt: {
        const auto* reindex = reinterpret_cast<const ReindexStmt*>(statement);
        if (reindex->kind != REINDEX_OBJECT_INDEX && reindex->kind != REINDEX_OBJECT_TABLE)
            return true;
        if (pg::says_concurrently(reindex->params))
            return true;
        char kind = relkind_of(reindex->relation);
        return kind == RELKIND_PARTITIONED_TABLE || kind == RELKIND_PARTITIONED_INDEX;
    }
    case pg::compat::kClusterStatement: {
        const RangeVar* table = pg::compat::clustered_table(statement);
        if (table == nullptr || relkind_of(table) == RELKIND_PARTITIONED_TABLE)
            return true;
        // REPACK: with ANALYZE it commits before that; CONCURRENTLY it runs in no transaction
        // block.
        const List* options = pg::compat::repack_options(statement);
        return pg::says_concurrently(options) || pg::has_option(options, "analyze") ||
               pg::has_option(options, "analyse");
    }
    default:
        return false;
    }
}

/// Will it be refused, as most are in a read-only transaction? See
/// ClassifyUtilityCommandAsReadOnly().
bool is_refused(const Node* statement) {
    const NodeTag kind = nodeTag(statement);
    return XactReadOnly && kind != T_LockStmt && kind != T_ReindexStmt &&
           kind != pg::compat::kClusterStatement;
}

/// Does it say NOWAIT?
bool refuses_to_wait(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_LockStmt:
        return reinterpret_cast<const LockStmt*>(statement)->nowait;
    case T_AlterTableMoveAllStmt:
        return reinterpret_cast<const AlterTableMoveAllStmt*>(statement)->nowait;
    default:
        return false;
    }
}

/// Does it lock a relation that is not its own? A new table is nobody else's; and who waits for
/// somebody who makes one of the same name keeps nobody waiting.
bool concerns_others(const Node* statement) {
    return !IsA(statement, CreateStmt) ||
           pg::names_other_relations(reinterpret_cast<const CreateStmt*>(statement));
}

/// How a statement of a guarded kind is to be run.
pg::DdlMode mode_for(const pg::UtilityCall& call, CommandTag tag) {
    // A subcommand belongs to a statement that has been judged already. An extension's script is
    // the administrator's work and not to be torn apart. A standby allows no DDL, and the weak LOCK
    // TABLE that it allows harms nobody. A parallel worker runs no utility statement. An autovacuum
    // worker, in a function of an index, gives way to whoever is behind it, by itself.
    if (pg::settings.mode() == pg::DdlMode::off || !pg::is_guarded_command(tag) ||
        call.context == PROCESS_UTILITY_SUBCOMMAND || creating_extension || IsInParallelMode() ||
        RecoveryInProgress() || MyBackendType == B_AUTOVAC_WORKER ||
        is_refused(call.planned->utilityStmt) || commits_on_its_way(call.planned->utilityStmt) ||
        refuses_to_wait(call.planned->utilityStmt) || !concerns_others(call.planned->utilityStmt))
        return pg::DdlMode::off;
    // Not to be tried in a subtransaction: at least it does not stand in a queue for long.
    return pg::changes_file_map(call.planned->utilityStmt) ? pg::DdlMode::lock_timeout
                                                           : pg::settings.mode();
}

// ---- How

void run_candidate(const pg::UtilityCall& call) {
    CommandTag tag = CreateCommandTag(call.planned->utilityStmt);
    pg::DdlMode mode = mode_for(call, tag);
    if (mode != pg::DdlMode::off && pg::nesting() == pg::Nesting::none)
        pg::count(pg::Counter::statements);
    if (mode != pg::DdlMode::off && call.context == PROCESS_UTILITY_TOPLEVEL)
        pg::renew_interrupt_watch();
    switch (mode) {
    case pg::DdlMode::off:
        pg::run(call);
        break;
    case pg::DdlMode::lock_timeout:
        pg::run_under_stall_limit({tag, pg::current_reader()}, [&call, tag] {
            pg::run_with_lock_timeout(call, tag, pg::settings.ddl_lock_timeout);
        });
        break;
    case pg::DdlMode::low_priority:
        // A statement inside a guarded one, of a function or an event trigger, must not be patient:
        // the outer one holds locks, is being waited for, and tries again as a whole. Where its
        // waits are watched, so are those inside.
        if (pg::nesting() == pg::Nesting::none)
            pg::run_at_low_priority(call, tag);
        else if (pg::nesting() == pg::Nesting::attempt && pg::waits_are_watched())
            pg::run(call);
        else
            pg::run_with_lock_timeout(call, tag, pg::settings.ddl_lock_timeout);
        break;
    }
}

/// Most utility statements, BEGIN and COMMIT among them, take the default branch and nothing else.
/// An import of a snapshot is not guarded; whoever would end the session is to know of it. Nor is
/// VACUUM FULL, but the worker may cancel it.
void guard_utility(PlannedStmt* planned, const char* query, bool read_only_tree,
                   ProcessUtilityContext context, ParamListInfo parameters,
                   QueryEnvironment* environment, DestReceiver* destination,
                   QueryCompletion* completion) {
    switch (nodeTag(planned->utilityStmt)) {
    case T_AlterObjectDependsStmt:
    case T_AlterObjectSchemaStmt:
    case T_AlterSeqStmt:
    case T_AlterTableMoveAllStmt:
    case T_AlterTableStmt:
    case T_AlterPolicyStmt:
    case T_CommentStmt:
    case T_CreatePolicyStmt:
    case T_CreateStmt:
    case T_CreateTrigStmt:
    case T_DropStmt:
    case T_IndexStmt:
    case T_LockStmt:
    case T_RefreshMatViewStmt:
    case T_ReindexStmt:
    case T_RenameStmt:
    case T_RuleStmt:
    case T_TruncateStmt:
    case pg::compat::kClusterStatement:
        run_candidate({planned, query, read_only_tree, context, parameters, environment,
                       destination, completion, next_hook});
        return;
    case T_VacuumStmt:
        pg::run({planned, query, read_only_tree, context, parameters, environment, destination,
                 completion, next_hook});
        return;
    case T_TransactionStmt: {
        const auto* statement = reinterpret_cast<const TransactionStmt*>(planned->utilityStmt);
        if (unlikely(statement->kind == TRANS_STMT_PREPARE))
            pg::note_prepare(statement->gid);
        next_hook(planned, query, read_only_tree, context, parameters, environment, destination,
                  completion);
        return;
    }
    case T_VariableSetStmt:
        if (unlikely(pg::imports_snapshot(planned->utilityStmt))) {
            next_hook(planned, query, read_only_tree, context, parameters, environment, destination,
                      completion);
            pg::publish_imported_snapshot();
            return;
        }
        [[fallthrough]];
    default:
        next_hook(planned, query, read_only_tree, context, parameters, environment, destination,
                  completion);
    }
}

} // namespace

void install_ddl_guard() {
    next_hook = ProcessUtility_hook != nullptr ? ProcessUtility_hook : standard_ProcessUtility;
    ProcessUtility_hook = guard_utility;
}

} // namespace lockguard::features
