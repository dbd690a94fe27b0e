// A statement is kept when it begins, if it is the client's own and in a transaction block. What
// functions and triggers run is not kept; but what it touches counts as touched by the statement
// that runs them.
//
// What a query touches stands in its plan. For a utility statement the lock manager is asked before
// it runs, and when it is done; but not for the many that lock nothing, or run a query for that.
// What is found before has been touched by something that no plan told of, such as nextval().
// Indexes and TOAST tables are left out: their tables stand for them.
//
// BEGIN, COMMIT, SAVEPOINT and the like are not kept: those that do would push out those that work.
#include "locks/statement_watch.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/settings.h"
#include "locks/own_locks.h"
#include "shmem/tracked_statements.h"

extern "C" {
#include "access/transam.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "parser/scansup.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"
}

namespace lockguard::pg {

namespace {

ExecutorStart_hook_type next_start;
ExecutorRun_hook_type next_run;
ExecutorFinish_hook_type next_finish;
ProcessUtility_hook_type next_utility;

/// How many of the hooks are on the stack: what runs inside one is not the client's own statement.
int depth;

/// The transaction that COMMIT or PREPARE TRANSACTION has told to end: its deferred triggers run
/// outside of any statement.
LocalTransactionId ending = InvalidLocalTransactionId;

/// Runs what is inside a statement.
template <class Body>
void run_inside(Body&& body) {
    depth++;
    run_guarded(body, [] { depth--; });
}

/// Is the client's own statement about to begin, in a transaction block? A query that a function
/// runs while another is planned finds no portal.
bool begins_own_statement() {
    return depth == 0 && ActivePortal != nullptr && IsTransactionBlock() &&
           !IsAbortedTransactionBlockState() && pgstat_track_activities &&
           compat::lxid_of(MyProc) != ending;
}

/// May the transaction's last statement be said to touch something?
bool can_touch() {
    return has_tracked_statements() && is_room_for_touches() && compat::lxid_of(MyProc) != ending;
}

/// The statement in a string of one or several.
std::string_view text_of(const char* source, const PlannedStmt* planned) {
    std::string_view text = source == nullptr ? std::string_view() : std::string_view(source);
    if (planned->stmt_location > 0)
        text.remove_prefix(std::min(text.size(), static_cast<std::size_t>(planned->stmt_location)));
    if (planned->stmt_len > 0)
        text = text.substr(0, static_cast<std::size_t>(planned->stmt_len));
    while (!text.empty() && scanner_isspace(text.front()))
        text.remove_prefix(1);
    while (!text.empty() && (scanner_isspace(text.back()) || text.back() == ';'))
        text.remove_suffix(1);
    return text;
}

void keep(CommandTag command, const char* source, const PlannedStmt* planned) {
    std::string_view text = text_of(source, planned);
    std::size_t size = text.size();
    if (size > kTrackedStatementBytes)
        size = static_cast<std::size_t>(
            pg_mbcliplen(text.data(), static_cast<int>(text.size()), kTrackedStatementBytes));
    track_statement(command, text.substr(0, size), size < text.size());
}

// ---- Relations

/// Relations of users that nobody is known to have touched first.
struct NewlyTouched {
    Oid relations[kTrackedRelations];
    std::size_t count;
    bool overflowed;

    NewlyTouched() : count(0), overflowed(false) {}

    void add(Oid relation) {
        if (relation < FirstNormalObjectId || is_touch_known(relation) ||
            std::find(relations, relations + count, relation) != relations + count)
            return;
        if (count == lengthof(relations))
            overflowed = true;
        else
            relations[count++] = relation;
    }

    /// Reads catalogs, and leaves out what has been dropped.
    void keep_tables() {
        Oid* end = std::remove_if(relations, relations + count, [](Oid relation) {
            const char kind = get_rel_relkind(relation);
            return kind == '\0' || kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX ||
                   kind == RELKIND_TOASTVALUE;
        });
        count = static_cast<std::size_t>(end - relations);
    }

    void note(bool by_last_statement) const {
        if (count > 0)
            note_touches({relations, count}, by_last_statement);
        if (overflowed)
            note_lost_touches();
    }
};

void note_planned(const PlannedStmt* planned) {
    NewlyTouched touched;
    // Not relationOids, which has those that the text only names, in a constant of type regclass.
    for (int i = 0; i < list_length(planned->rtable); i++) {
        const auto* entry = static_cast<const RangeTblEntry*>(list_nth(planned->rtable, i));
        // A view is an entry of its own, or, from 16 on, its subquery's.
        if ((entry->rtekind == RTE_RELATION || entry->rtekind == RTE_SUBQUERY) &&
            OidIsValid(entry->relid))
            touched.add(entry->relid);
    }
    touched.note(true);
}

void note_locked(bool by_last_statement) {
    NewlyTouched touched;
    visit_own_locks(
        [](void* argument, pg::OwnLock lock) {
            if (!lock.shared)
                static_cast<NewlyTouched*>(argument)->add(lock.relation);
        },
        &touched);
    touched.keep_tables();
    touched.note(by_last_statement);
}

/// Does the statement lock relations by itself, and not by a query that it runs?
bool locks_relations(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_TransactionStmt:
    case T_ClosePortalStmt:
    case T_ConstraintsSetStmt:
    case T_DeallocateStmt:
    case T_DeclareCursorStmt:
    case T_DiscardStmt:
    case T_ExecuteStmt:
    case T_ExplainStmt:
    case T_FetchStmt:
    case T_ListenStmt:
    case T_NotifyStmt:
    case T_PrepareStmt:
    case T_UnlistenStmt:
    case T_VariableSetStmt:
    case T_VariableShowStmt:
        return false;
    default:
        return true;
    }
}

// ---- Hooks

void watch_start(QueryDesc* query, int flags) {
    if (begins_own_statement())
        keep(CreateCommandTag(reinterpret_cast<Node*>(query->plannedstmt)), query->sourceText,
             query->plannedstmt);
    if (can_touch())
        note_planned(query->plannedstmt);
    run_inside([=] { next_start(query, flags); });
}

/// Before 18 it is also told whether the query runs only once.
template <class... Rest>
void watch_run(QueryDesc* query, ScanDirection direction, Rest... rest) {
    run_inside([=] { next_run(query, direction, rest...); });
}

void watch_finish(QueryDesc* query) {
    run_inside([=] { next_finish(query); });
}

void watch_utility(PlannedStmt* planned, const char* query, bool read_only_tree,
                   ProcessUtilityContext context, ParamListInfo parameters,
                   QueryEnvironment* environment, DestReceiver* destination,
                   QueryCompletion* completion) {
    const Node* statement = planned->utilityStmt;
    if (IsA(statement, TransactionStmt)) {
        // Not inside: a COMMIT may be that of a procedure.
        const TransactionStmtKind kind = reinterpret_cast<const TransactionStmt*>(statement)->kind;
        if (depth == 0 && (kind == TRANS_STMT_COMMIT || kind == TRANS_STMT_PREPARE))
            ending = compat::lxid_of(MyProc);
    } else if (begins_own_statement()) {
        keep(CreateCommandTag(planned->utilityStmt), query, planned);
    }
    // The statement's tree may be gone afterwards.
    const bool locks = locks_relations(statement);
    if (locks && can_touch())
        note_locked(false);
    run_inside([=] {
        next_utility(planned, query, read_only_tree, context, parameters, environment, destination,
                     completion);
    });
    if (locks && can_touch())
        note_locked(true);
}

void after_subtransaction(SubXactEvent event, SubTransactionId own, SubTransactionId /*parent*/,
                          void* /*argument*/) {
    if (event == SUBXACT_EVENT_ABORT_SUB)
        forget_touches_since(own);
}

} // namespace

void install_statement_watch() {
    Assert(process_shared_preload_libraries_in_progress);
    if (settings.track_statements == 0)
        return;
    next_start = ExecutorStart_hook != nullptr ? ExecutorStart_hook : standard_ExecutorStart;
    ExecutorStart_hook = watch_start;
    next_run = ExecutorRun_hook != nullptr ? ExecutorRun_hook : standard_ExecutorRun;
    ExecutorRun_hook = watch_run;
    next_finish = ExecutorFinish_hook != nullptr ? ExecutorFinish_hook : standard_ExecutorFinish;
    ExecutorFinish_hook = watch_finish;
    next_utility = ProcessUtility_hook != nullptr ? ProcessUtility_hook : standard_ProcessUtility;
    ProcessUtility_hook = watch_utility;
    RegisterSubXactCallback(after_subtransaction, nullptr);
}

} // namespace lockguard::pg
