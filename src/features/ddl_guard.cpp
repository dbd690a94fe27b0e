#include "features/ddl_guard.h"

#include "core/text.h"
#include "pg/bridge.h"
#include "pg/lock_culprits.h"
#include "pg/object_names.h"
#include "pg/settings.h"
#include "pg/wait_sampler.h"

extern "C" {
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
}

namespace lockguard::features {

namespace {

ProcessUtility_hook_type next_hook;

/// A utility statement on its way through the chain of hooks.
struct UtilityCall {
    PlannedStmt* planned;
    const char* query;
    bool read_only_tree;
    ProcessUtilityContext context;
    ParamListInfo parameters;
    QueryEnvironment* environment;
    DestReceiver* destination;
    QueryCompletion* completion;
};

void run(const UtilityCall& call) {
    next_hook(call.planned, call.query, call.read_only_tree, call.context, call.parameters,
              call.environment, call.destination, call.completion);
}

// ---- Which statements

/// Of a table or index that need not exist; '\0' where it does not. Takes no lock on it.
char relkind_of(const RangeVar* name) {
    Oid relation = RangeVarGetRelid(name, NoLock, true);
    return OidIsValid(relation) ? get_rel_relkind(relation) : '\0';
}

bool detaches_concurrently(const AlterTableStmt* statement) {
    for (int i = 0; i < list_length(statement->cmds); i++) {
        const auto* command = static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i));
        if (command->subtype == AT_DetachPartitionFinalize)
            return true;
        if (command->subtype == AT_DetachPartition &&
            reinterpret_cast<const PartitionCmd*>(command->def)->concurrent)
            return true;
    }
    return false;
}

bool says_concurrently(const List* options) {
    for (int i = 0; i < list_length(options); i++) {
        auto* option = static_cast<DefElem*>(list_nth(options, i));
        if (strcmp(option->defname, "concurrently") == 0 && defGetBoolean(option))
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
        if (says_concurrently(reindex->params))
            return true;
        char kind = relkind_of(reindex->relation);
        return kind == RELKIND_PARTITIONED_TABLE || kind == RELKIND_PARTITIONED_INDEX;
    }
    case pg::compat::kClusterStatement: {
        const RangeVar* table = pg::compat::clustered_table(statement);
        return table == nullptr || relkind_of(table) == RELKIND_PARTITIONED_TABLE;
    }
    default:
        return false;
    }
}

/// How a statement of a guarded kind is to be run.
pg::DdlMode mode_for(const UtilityCall& call, CommandTag tag) {
    // A subcommand belongs to a statement that has been judged already. An extension's script is
    // the administrator's work and not to be torn apart. A standby allows no DDL, and the weak LOCK
    // TABLE that it allows harms nobody. A parallel worker runs no utility statement.
    if (pg::settings.mode() == pg::DdlMode::off || !pg::is_guarded_command(tag) ||
        call.context == PROCESS_UTILITY_SUBCOMMAND || creating_extension || IsInParallelMode() ||
        RecoveryInProgress() || commits_on_its_way(call.planned->utilityStmt))
        return pg::DdlMode::off;
    return pg::settings.mode();
}

// ---- Who was in the way

/// What is said of a guarded statement that fails.
struct GuardedStatement {
    CommandTag tag;
    pg::Reader reader; // as of its beginning: it may run functions as somebody else
};

/// DETAIL and HINT, as C strings.
struct Explanation {
    const char* detail;
    const char* hint;
};

/// The ids of messages are not translated. Only the lock manager's own timeout has this one; NOWAIT
/// and an error that came from elsewhere, such as through dblink, are worded differently.
bool is_lock_timeout(const ErrorData* error) {
    return error->message_id != nullptr &&
           strcmp(error->message_id, "canceling statement due to lock timeout") == 0;
}

/// Adds to a lock timeout which lock it was and who holds it.
void explain_lock_timeout(const GuardedStatement& statement, ErrorData* error) {
    // A guarded statement inside this one has explained it already: its words are more exact.
    if (!is_lock_timeout(error) || error->detail != nullptr)
        return;
    TimestampTz failed_at = GetCurrentTimestamp();
    pg::FailedLockWait failed;
    if (!pg::failed_lock_wait(&failed))
        return;

    MemoryContext result_context = CurrentMemoryContext;
    MemoryContext work_context =
        AllocSetContextCreate(result_context, "pg_lockguard lock timeout", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(work_context);
    core::FailedWait wait = {};
    wait.command = GetCommandTagName(statement.tag);
    wait.waited = failed_at - failed.started_at;
    if (failed.lock_known) {
        pg::NameLookup lookup = pg::open_name_lookup();
        wait.lock_mode = GetLockmodeName(failed.tag.locktag_lockmethodid, failed.mode);
        wait.object = pg::locked_object_text(failed.tag, lookup);
        wait.culprits = pg::find_lock_culprits(failed, statement.reader, lookup);
        pg::close_name_lookup(lookup);
    }

    pg::CoreFailure failure;
    Explanation explanation = pg::try_core(
        result_context,
        [&wait](std::pmr::memory_resource& memory) {
            return Explanation{core::failed_wait_detail(wait, memory).data(),
                               core::failed_wait_hint(wait, memory).data()};
        },
        &failure);
    MemoryContextSwitchTo(result_context);
    MemoryContextDelete(work_context);
    if (failure.failed)
        return; // no memory: the plain error is better than none
    error->detail = const_cast<char*>(explanation.detail);
    error->hint = const_cast<char*>(explanation.hint);
}

// ---- How

/// lock_timeout as long as pg_lockguard.ddl_lock_timeout from here to leave(), unless the session's
/// own is stricter. An error needs no leave(): the abort of its (sub)transaction restores settings.
class LockTimeoutScope {
  public:
    void enter() {
        if (LockTimeout > 0 && LockTimeout <= pg::settings.ddl_lock_timeout)
            return;
        transaction_ = pg::compat::lxid_of(MyProc);
        nest_level_ = NewGUCNestLevel();
        char value[16];
        snprintf(value, sizeof(value), "%d", pg::settings.ddl_lock_timeout);
        set_config_option("lock_timeout", value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
                          0, false);
    }

    void leave() const {
        // A commit inside the statement has restored it already, and taken the nest level with it.
        if (nest_level_ != 0 && transaction_ == pg::compat::lxid_of(MyProc))
            AtEOXact_GUC(true, nest_level_);
    }

  private:
    LocalTransactionId transaction_ = InvalidLocalTransactionId;
    int nest_level_ = 0;
};

void run_with_lock_timeout(const UtilityCall& call, CommandTag tag) {
    const GuardedStatement statement = {tag, pg::current_reader()};
    LockTimeoutScope scope;
    scope.enter();
    pg::WaitSampling sampling = pg::start_wait_sampling(LockTimeout);
    pg::run_amending(
        ERRCODE_LOCK_NOT_AVAILABLE, [&call] { run(call); },
        [&statement](ErrorData* error) { explain_lock_timeout(statement, error); },
        [&sampling] { pg::stop_wait_sampling(sampling); });
    scope.leave();
}

void run_candidate(const UtilityCall& call) {
    CommandTag tag = CreateCommandTag(call.planned->utilityStmt);
    switch (mode_for(call, tag)) {
    case pg::DdlMode::off:
        run(call);
        break;
    case pg::DdlMode::lock_timeout:
        run_with_lock_timeout(call, tag);
        break;
    }
}

/// Most utility statements, BEGIN and COMMIT among them, take the default branch and nothing else.
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
    case T_CommentStmt:
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
                       destination, completion});
        return;
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
