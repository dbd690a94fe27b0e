#include "preview/preview_run.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "guard/heavy_watch.h"
#include "guard/lock_targets.h"
#include "guard/needed_locks.h"
#include "guard/nesting.h"
#include "guard/utility_call.h"
#include "locks/own_locks.h"
#include "locks/wait_sampler.h"
#include "sessions/interrupt_watch.h"
#include "sessions/own_cancel.h"

extern "C" {
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
}

namespace lockguard::pg {

using core::HeavyKind;
using core::Unseen;

namespace {

/// For each lock that was not known beforehand.
constexpr core::Microseconds kPatience = core::kMillisecond;

/// For those that were, before the preview begins: at most so long, looking again and again.
constexpr core::Microseconds kLongestLook = 20 * core::kMillisecond;

/// Between two looks at whether the locks that are known to be needed are free, in µs. None is held
/// meanwhile.
constexpr long kRest = 500;

/// One preview at work. Lives in the frame that a longjmp returns to, and is written by the calls
/// below that frame: so it is as they left it.
struct Run {
    const PreviewedStatement& statement;
    PreviewedSteps* steps;
    MemoryContext context;
    LockTargets targets;
    std::span<const OwnLock> before; // locks that the transaction had
    std::span<const OwnLock> after;  // ... and those at the end, whatever that was
    const char* new_name;            // of what CREATE TABLE AS makes
    OwnCancel cancel;
    bool has_begun; // it had all locks that it is known to need
    bool finished;
    bool stopped_at_query; // by our own error
    HeavyWatch watch;
    RunningStatement running;
};

/// The one of this process: previews do not nest (a guarded statement or a preview refuses one
/// inside).
Run* current;

// ---- The deadline

TimeoutId deadline;
bool deadline_registered;

/// In ms. A function may have caught the error, and gone on.
constexpr int kRepeat = 100;

/// In the SIGALRM handler.
void strike_deadline() {
    if (current == nullptr)
        return;
    ask_own_cancel(&current->cancel);
    enable_timeout_after(deadline, kRepeat);
}

void start_deadline(int milliseconds) {
    if (!deadline_registered) {
        deadline = RegisterTimeout(USER_TIMEOUT, strike_deadline);
        deadline_registered = true;
    }
    enable_timeout_after(deadline, milliseconds);
}

// ---- What tells of heavy work

/// Called in the report of the message.
void on_heavy_work(const HeavyWork& work, void* argument) {
    auto* run = static_cast<Run*>(argument);
    if (run->steps->has_work)
        return; // already on the way out
    run->steps->has_work = true;
    run->steps->work = {work.kind, work.relation, nullptr, work.size};
    ask_own_cancel(&run->cancel);
}

/// What the query of CREATE TABLE AS or REFRESH writes to. EXECUTE hides it.
bool is_query_of(const QueryDesc* query, const Node* statement) {
    if (query->dest->mydest == DestIntoRel || query->dest->mydest == DestTransientRel)
        return true;
    if (!IsA(statement, CreateTableAsStmt))
        return false;
    const auto* create = reinterpret_cast<const CreateTableAsStmt*>(statement);
    const Node* source = create->query;
    return query->dest->mydest == DestNone && source != nullptr && IsA(source, Query) &&
           reinterpret_cast<const Query*>(source)->utilityStmt != nullptr;
}

const char* name_of_new(const IntoClause* into) {
    return into == nullptr || into->rel == nullptr
               ? nullptr
               : quote_qualified_identifier(into->rel->schemaname, into->rel->relname);
}

Oid refreshed_view(const Node* statement) {
    if (!IsA(statement, RefreshMatViewStmt))
        return InvalidOid;
    return RangeVarGetRelid(reinterpret_cast<const RefreshMatViewStmt*>(statement)->relation,
                            NoLock, true);
}

/// The hook of whoever was there before ours.
ExecutorStart_hook_type outer_start;

/// Of the query of the statement the others hear nothing: it is not to begin at all. All else
/// passes, as everything does while no preview runs.
void on_executor_start(QueryDesc* query, int flags) {
    Run* run = current;
    if (run == nullptr || !is_query_of(query, run->statement.node())) {
        if (outer_start != nullptr)
            outer_start(query, flags);
        else
            standard_ExecutorStart(query, flags);
        return;
    }
    // The planner's estimate says what is in the tables: it is for whom the executor would not
    // refuse.
    compat::check_query_privileges(query->plannedstmt);
    const Plan* plan = query->plannedstmt->planTree;
    run->steps->has_work = true;
    run->steps->work = {HeavyKind::run_query, refreshed_view(run->statement.node()), run->new_name,
                        static_cast<int64>(std::min(plan->plan_rows * plan->plan_width, 9e18))};
    run->stopped_at_query = true;
    ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg_internal("the preview ends here")));
}

void install_executor_start() {
    static bool installed;
    if (installed)
        return;
    // As late as this, so that it comes before those of other libraries. And for good: a library
    // that the previewed statement loads puts its hook before ours, and knows ours as the next.
    outer_start = ExecutorStart_hook;
    ExecutorStart_hook = on_executor_start;
    installed = true;
}

// ---- Inside of the subtransaction

/// Takes the locks that are known beforehand. False where one is not free.
bool take_known_locks(Run* run) {
    NeededLocks needed(CurrentMemoryContext);
    needed.collect(run->targets);
    for (const NeededLock& lock : needed.in_taking_order()) {
        if (take_if_free(lock))
            continue;
        PreviewedLock* step = add_lock(run->steps, lock.tag, lock.mode);
        step->blocked = true;
        step->holders = find_lock_holders(lock.tag, lock.mode, compat::procno_of(MyProc));
        run->steps->unseen = Unseen::behind_lock;
        return false;
    }
    return true;
}

/// SELECT INTO becomes CREATE TABLE AS by that.
Node* analyzed(const PreviewedStatement& statement) {
    if (into_clause_of(statement.node()) == nullptr)
        return statement.node();
    Query* query = parse_analyze_fixedparams(statement.raw, statement.text, nullptr, 0, nullptr);
    return query->utilityStmt;
}

/// As the server would for a part of another statement: no event trigger fires, and nobody's hook
/// is called for the statement itself.
void run_statement(Run* run) {
    PushActiveSnapshot(GetTransactionSnapshot());
    auto* planned = makeNode(PlannedStmt);
    planned->commandType = CMD_UTILITY;
    planned->canSetTag = true;
    planned->utilityStmt = analyzed(run->statement);
    planned->stmt_location = run->statement.raw->stmt_location;
    planned->stmt_len = run->statement.raw->stmt_len;
    QueryCompletion completion;
    InitializeQueryCompletion(&completion);
    run_copy({planned, run->statement.text, true, PROCESS_UTILITY_SUBCOMMAND, nullptr, nullptr,
              None_Receiver, &completion, standard_ProcessUtility});
    PopActiveSnapshot();
    CHECK_FOR_INTERRUPTS(); // a deadline that has struck is not left behind
}

/// What belongs to the end of the run, also by an error.
void end_run(Run* run) {
    disable_timeout(deadline, false);
    stop_wait_limit();
    withdraw_own_cancel(&run->cancel);
    current = nullptr;
    run->running.leave();
    // An error that came while this process had an LWLock is none of these.
    if (run->finished || geterrcode() == ERRCODE_QUERY_CANCELED) {
        MemoryContext caller = MemoryContextSwitchTo(run->context);
        run->after = find_own_locks();
        MemoryContextSwitchTo(caller);
    }
}

bool run_inside(Run* run, int max_hold) {
    if (!take_known_locks(run))
        return false;
    run->has_begun = true;
    run->watch.enter(run->statement.node(), true, on_heavy_work, run);
    run->running.enter(Nesting::attempt);
    install_executor_start();
    current = run;
    start_deadline(max_hold);
    run_guarded(
        [run] {
            start_wait_limit(kPatience);
            run_statement(run);
            run->finished = true;
        },
        [run] { end_run(run); });
    return false; // in any case
}

// ---- Afterwards

bool is_toast(Oid relation) {
    return IsToastNamespace(get_rel_namespace(relation));
}

/// Is it a relation that others know of, and that is none of the catalogs?
bool is_worth_showing(Oid relation) {
    char kind = get_rel_relkind(relation);
    return kind != '\0' && !IsCatalogRelationOid(relation) && !is_toast(relation) &&
           get_rel_persistence(relation) != RELPERSISTENCE_TEMP;
}

LOCKMASK modes_before(const Run& run, Oid relation) {
    for (const OwnLock& lock : run.before) {
        if (lock.relation == relation && !lock.shared)
            return lock.modes;
    }
    return 0;
}

/// Those that turned up inside the statement, the strongest first.
void add_other_locks(Run* run) {
    auto* locks = const_cast<OwnLock*>(run->after.data());
    std::sort(locks, locks + run->after.size(), [](const OwnLock& left, const OwnLock& right) {
        LOCKMODE left_mode = strongest_mode(left.modes);
        LOCKMODE right_mode = strongest_mode(right.modes);
        return left_mode != right_mode ? left_mode > right_mode : left.relation < right.relation;
    });
    for (const OwnLock& lock : run->after) {
        LOCKMASK modes = lock.modes & ~modes_before(*run, lock.relation);
        if (lock.shared || modes == 0 || !is_worth_showing(lock.relation))
            continue;
        for (LOCKMODE mode = MaxLockMode; mode > NoLock; mode--) {
            if ((modes & LOCKBIT_ON(mode)) != 0)
                add_relation_lock(run->steps, lock.relation, mode);
        }
    }
}

void add_target_locks(Run* run) {
    for (const LockTarget& target : run->targets.locks) {
        if (!is_toast(target.relation))
            add_relation_lock(run->steps, target.relation, target.mode);
    }
}

/// The wait that its limit has ended.
void add_awaited_lock(Run* run) {
    AwaitedLock wait = lock_of_limit();
    PreviewedLock* step = add_lock(run->steps, wait.tag, wait.mode);
    step->blocked = true;
    step->holders = find_lock_holders(wait.tag, wait.mode, compat::procno_of(MyProc));
    run->steps->unseen = Unseen::behind_lock;
}

/// Looked at before any lock is asked for: from wal_level replica on an attempt at ACCESS EXCLUSIVE
/// costs a transaction id, and a standby sees it.
bool is_known_lock_held(Run* run) {
    bool held = false;
    for (const LockTarget& target : run->targets.locks) {
        if (is_toast(target.relation))
            continue; // asked for when it is taken
        PreviewedLock* step = add_relation_lock(run->steps, target.relation, target.mode);
        step->holders = find_lock_holders(step->tag, step->mode, compat::procno_of(MyProc));
        step->blocked = !step->holders.empty();
        held |= step->blocked;
    }
    if (held)
        run->steps->unseen = Unseen::behind_lock;
    return held;
}

void conclude(Run* run) {
    add_target_locks(run);
    add_other_locks(run);
    PreviewedSteps* steps = run->steps;
    if (steps->has_work) {
        steps->unseen = Unseen::behind_heavy_work;
    } else if (wait_limit_has_struck()) {
        add_awaited_lock(run);
    } else if (has_cut(run->cancel) && !run->finished) {
        steps->unseen = Unseen::behind_deadline;
    } else if (run->finished) {
        steps->has_work = true;
        steps->work = {HeavyKind::none,
                       run->targets.locks.empty() ? InvalidOid : run->targets.locks[0].relation,
                       nullptr, -1};
    }
}

/// One look. False where it ended before the statement was run, at a lock that is known to be
/// needed.
bool look_once(const PreviewedStatement& statement, int max_hold, PreviewedSteps* steps) {
    Run run = {statement, steps, CurrentMemoryContext, {}, {}, {}, nullptr, {}, false, false, false,
               {},        {}};
    run.targets = find_lock_targets(statement.node());
    run.new_name = name_of_new(into_clause_of(statement.node()));
    if (is_known_lock_held(&run))
        return false;
    run.before = find_own_locks();
    forget_wait_limit();
    const InterruptMarks marks = mark_interrupts();
    allow_own_cancel(&run.cancel, CancelReason::preview);
    auto body = [&run, max_hold] { return run_inside(&run, max_hold); };
    auto expected = [&run, &marks](const ErrorData* error) {
        if (is_cancel_request(error))
            return is_own_cancel(run.cancel, error) || is_wait_limit(error);
        if (cancel_came(marks) || is_statement_timeout(error))
            return false;
        // After a cut any other error may have come of it: a function has raised its own.
        return has_cut(run.cancel) || wait_limit_has_struck() ||
               (run.stopped_at_query && error->sqlerrcode == ERRCODE_QUERY_CANCELED);
    };
    // The watch outlasts the subtransaction, whose end gives its setting back.
    auto in_subtransaction = [&] { run_in_subtransaction(body, expected); };
    run_guarded(in_subtransaction, [&run] {
        run.watch.abandon();
        withdraw_own_cancel(&run.cancel);
    });
    raise_swallowed_interrupts(marks);
    conclude(&run);
    return run.has_begun;
}

} // namespace

void run_preview(const PreviewedStatement& statement, int max_hold, PreviewedSteps* steps) {
    Assert(nesting() == Nesting::none && current == nullptr);
    // A table that is read all the time is free now and then.
    const core::Timestamp end =
        steady_now() + std::min(max_hold * core::kMillisecond, kLongestLook);
    while (!look_once(statement, max_hold, steps) && steady_now() < end) {
        CHECK_FOR_INTERRUPTS();
        pg_usleep(kRest);
        *steps = start_steps();
    }
}

} // namespace lockguard::pg
