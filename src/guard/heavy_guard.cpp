#include "guard/heavy_guard.h"

#include "core/heavy_work.h"

#include "boundary/bridge.h"
#include "boundary/settings.h"
#include "guard/heavy_remedy.h"
#include "guard/heavy_watch.h"
#include "locks/own_locks.h"
#include "sessions/object_names.h"
#include "sessions/own_cancel.h"
#include "shmem/running_work.h"

extern "C" {
#include "catalog/catalog.h"
#include "catalog/partition.h"
#include "mb/pg_wchar.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
}

namespace lockguard::pg {

namespace {

/// What is shown to others now; kind `none` for nothing. A statement inside of another one shows
/// its own work, and gives way to that of the other when it ends.
RunningWork shown;

void show(const RunningWork& work) {
    shown = work;
    if (work.kind == core::HeavyKind::none)
        withdraw_running_work();
    else
        publish_running_work(work);
}

/// What a client has been warned of in this statement: an attempt that comes to nothing and is made
/// again says it once.
struct {
    TimestampTz statement;
    HeavyWork work;
} warned;

/// See latest_heavy_work(). Cut where a name is very long.
char latest_work[3 * NAMEDATALEN + 64];

/// One run of one statement. The words of a refusal are in `context`.
struct WatchedRun {
    const UtilityCall& call;
    CommandTag tag;
    MemoryContext context;
    TimestampTz began;
    bool may_refuse;
    RunningWork outer;     // what was shown before
    OwnCancel cancel = {}; // if may_refuse
    bool refused = false;
    const char* message = nullptr; // if refused
    const char* detail = nullptr;
    const char* hint = nullptr;
    HeavyWatch watch = {};
};

/// A lock by which the transaction keeps others out.
struct HarmfulLock {
    Oid relation; // InvalidOid where there is none
    LOCKMODE mode;
};

/// May others know of the relation, and mind? Not of one that this transaction has dropped, as a
/// rewrite drops the indexes that it makes anew: the locks on it stay.
bool is_others_business(Oid relation) {
    const char kind = get_rel_relkind(relation);
    if (kind == '\0' || kind == RELKIND_TOASTVALUE || IsCatalogRelationOid(relation) ||
        get_rel_persistence(relation) == RELPERSISTENCE_TEMP)
        return false;
    Relation opened = RelationIdGetRelation(relation);
    if (!RelationIsValid(opened))
        return false;
    const bool is_new = opened->rd_createSubid != InvalidSubTransactionId;
    RelationClose(opened);
    return !is_new;
}

/// The strongest one, that of the relation which is worked on before others.
HarmfulLock find_harmful_lock(Oid worked_on) {
    HarmfulLock found = {InvalidOid, NoLock};
    for (const OwnLock& lock : find_own_locks()) {
        LOCKMODE mode = strongest_mode(lock.modes);
        if (lock.shared || core::stopped_by(mode) < core::Stopped::writers || mode < found.mode ||
            (mode == found.mode && lock.relation != worked_on) ||
            !is_others_business(lock.relation))
            continue;
        found = {lock.relation, mode};
    }
    return found;
}

const char* relation_text(Oid relation, NameLookup names) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    return locked_object_text(tag, names);
}

/// Has the user said that it is meant: for this relation, or for one that it is a partition of?
bool is_confirmed(Oid relation, NameLookup names) {
    if (settings.ddl_heavy_confirm == nullptr || settings.ddl_heavy_confirm[0] == '\0')
        return false;
    if (core::confirms(settings.ddl_heavy_confirm, relation_text(relation, names)))
        return true;
    if (!get_rel_relispartition(relation))
        return false;
    List* ancestors = get_partition_ancestors(relation);
    for (int i = 0; i < list_length(ancestors); i++) {
        if (core::confirms(settings.ddl_heavy_confirm,
                           relation_text(list_nth_oid(ancestors, i), names)))
            return true;
    }
    return false;
}

/// The words, in the memory context of the run.
void put_into_words(WatchedRun* run, const HeavyWork& work, HarmfulLock lock, NameLookup names) {
    core::HeavyStatement statement = {};
    statement.command = GetCommandTagName(run->tag);
    statement.kind = work.kind;
    statement.relation = relation_text(work.relation, names);
    statement.size = work.size;
    statement.locked = relation_text(lock.relation, names);
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, lock.relation);
    statement.lock_mode = GetLockmodeName(tag.locktag_lockmethodid, lock.mode);
    statement.stopped = core::stopped_by(lock.mode);
    statement.min_size = static_cast<int64>(settings.ddl_heavy_min_size) * 1024;
    statement.advice =
        advice_for(run->call.planned->utilityStmt, work.kind, work.relation, statement.relation);
    struct Words {
        std::string_view message, detail, hint;
    };
    Words words = call_core(run->context, [&](std::pmr::memory_resource& memory) {
        return Words{core::heavy_message_text(statement, memory),
                     core::heavy_detail_text(statement, memory),
                     core::heavy_hint_text(statement, memory)};
    });
    run->message = words.message.data();
    run->detail = words.detail.data();
    run->hint = words.hint.data();
}

void warn(const WatchedRun& run, const HeavyWork& work) {
    if (warned.statement == GetCurrentStatementStartTimestamp() &&
        warned.work.relation == work.relation && warned.work.kind == work.kind)
        return;
    warned = {GetCurrentStatementStartTimestamp(), work};
    ereport(WARNING, (errmsg("%s", run.message), errdetail_internal("%s", run.detail),
                      errhint("%s", run.hint)));
}

void judge(WatchedRun* run, const HeavyWork& work) {
    if (settings.heavy() == DdlHeavy::allow || !OidIsValid(work.relation) || run->refused ||
        work.size <= static_cast<int64>(settings.ddl_heavy_min_size) * 1024)
        return;
    const HarmfulLock lock = find_harmful_lock(work.relation);
    if (!OidIsValid(lock.relation))
        return;
    NameLookup names = open_name_lookup();
    if (!is_confirmed(work.relation, names)) {
        put_into_words(run, work, lock, names);
        if (settings.heavy() == DdlHeavy::warn || !run->may_refuse) {
            warn(*run, work);
        } else {
            run->refused = true;
            ask_own_cancel(&run->cancel);
        }
    }
    close_name_lookup(names);
}

void note_latest(const HeavyWork& work) {
    NameLookup names = open_name_lookup();
    const char* relation =
        OidIsValid(work.relation) ? relation_text(work.relation, names) : "a relation";
    close_name_lookup(names);
    std::string_view text = call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::work_text(work.kind, relation, memory);
    });
    strlcpy(latest_work, text.data(), sizeof(latest_work));
    // It ends with a whole character.
    latest_work[pg_mbcliplen(latest_work, static_cast<int>(strlen(latest_work)),
                             sizeof(latest_work) - 1)] = '\0';
}

/// In the report of the server's message.
void on_heavy_work(const HeavyWork& work, void* argument) {
    auto* run = static_cast<WatchedRun*>(argument);
    RunningWork now = {};
    now.pid = MyProcPid;
    now.lxid = compat::lxid_of(MyProc);
    now.database = MyDatabaseId;
    now.role = MyProc->roleId;
    now.command = run->tag;
    now.statement_began = run->began;
    now.began = GetCurrentTimestamp();
    now.kind = work.kind;
    now.relation = work.relation;
    now.size = work.size;
    show(now);
    note_latest(work);
    judge(run, work);
}

/// Can it do any of the work that is watched for?
bool may_be_heavy(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_AlterTableStmt:
    case T_AlterTableMoveAllStmt:
    case T_CreateStmt:
    case T_IndexStmt:
    case T_RefreshMatViewStmt:
    case T_ReindexStmt:
    case compat::kClusterStatement:
        return true;
    default:
        return false;
    }
}

/// Would anybody learn of it?
bool is_watched(const Node* statement) {
    return may_be_heavy(statement) &&
           (settings.heavy() != DdlHeavy::allow || shared_state_available());
}

/// "canceling statement due to user request" is not what it is.
void refuse(ErrorData* error, const WatchedRun& run) {
    error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    error->message = const_cast<char*>(run.message);
    error->message_id = nullptr;
    error->detail = const_cast<char*>(run.detail);
    error->hint = const_cast<char*>(run.hint);
}

[[noreturn]] void raise_refusal(const WatchedRun& run) {
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg_internal("%s", run.message),
             errdetail_internal("%s", run.detail), errhint("%s", run.hint)));
    pg_unreachable();
}

template <class Run>
void watch(const UtilityCall& call, CommandTag tag, Run&& run_statement) {
    if (shown.kind == core::HeavyKind::none)
        latest_work[0] = '\0'; // else the statement is part of one that works
    const Node* statement = call.planned->utilityStmt;
    if (!is_watched(statement)) {
        run_statement(call);
        return;
    }
    WatchedRun run = {.call = call,
                      .tag = tag,
                      .context = CurrentMemoryContext,
                      .began = GetCurrentTimestamp(),
                      .may_refuse = settings.heavy() == DdlHeavy::refuse,
                      .outer = shown};
    if (run.may_refuse)
        allow_own_cancel(&run.cancel, CancelReason::refusal);
    run_amending(
        ERRCODE_QUERY_CANCELED,
        [&run, &run_statement, statement] {
            run.watch.enter(statement, false, on_heavy_work, &run);
            run_statement(run.call);
            // Some function has caught the error, and gone on.
            if (run.refused)
                raise_refusal(run);
            run.watch.leave();
        },
        [&run](ErrorData* error) {
            withdraw_own_cancel(&run.cancel);
            if (is_own_cancel(run.cancel, error))
                refuse(error, run);
        },
        [&run] {
            run.watch.abandon();
            withdraw_own_cancel(&run.cancel);
            if (shown.kind != run.outer.kind || shown.began != run.outer.began)
                show(run.outer);
        });
}

} // namespace

void run_watched(const UtilityCall& call, CommandTag tag) {
    watch(call, tag, [](const UtilityCall& statement) { run(statement); });
}

void run_copy_watched(const UtilityCall& call, CommandTag tag) {
    watch(call, tag, [](const UtilityCall& statement) { run_copy(statement); });
}

const char* latest_heavy_work() {
    return latest_work[0] == '\0' ? nullptr : latest_work;
}

} // namespace lockguard::pg
