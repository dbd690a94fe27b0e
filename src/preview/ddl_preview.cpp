// SELECT * FROM ddl_preview('ALTER TABLE …'): what a DDL statement would lock, who is in the way
// now, and whether it rewrites, scans or indexes a table, before it does.

#include "core/heavy_work.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/result_rows.h"
#include "boundary/settings.h"
#include "guard/heavy_remedy.h"
#include "guard/lock_targets.h"
#include "guard/nesting.h"
#include "preview/event_trigger_state.h"
#include "preview/preview_rules.h"
#include "preview/preview_run.h"
#include "sessions/backend_status.h"
#include "sessions/physical_standbys.h"

extern "C" {
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/inval.h"

PG_FUNCTION_INFO_V1(pg_lockguard_ddl_preview);
}

namespace lockguard::features {

using core::HeavyKind;
using core::Stopped;
using core::Unseen;

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_step,
    col_action,
    col_relation,
    col_lock_mode,
    col_size,
    col_stops,
    col_held_by,
    col_longest_idle,
    col_longest_xact,
    col_complete,
    col_advice,
    column_count
};

constexpr Oid kTypes[column_count] = {
    INT4OID,      TEXTOID,     TEXTOID,     TEXTOID, INT8OID, TEXTOID,
    INT4ARRAYOID, INTERVALOID, INTERVALOID, BOOLOID, TEXTOID,
};

// ---- Where it can't be done

/// Where it could not be run, or not be rolled back, or not be without effect.
void require_fit_place() {
    if (RecoveryInProgress())
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("recovery is in progress"),
                        errdetail("ddl_preview() runs the statement, and rolls it back."),
                        errhint("Preview the statement on the primary.")));
    if (XactReadOnly)
        ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                        errmsg("cannot execute %s in a read-only transaction", "ddl_preview()"),
                        errdetail("It runs the statement, and rolls it back."),
                        errhint("Use a read-write transaction.")));
    if (pg::nesting() != pg::Nesting::none)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("ddl_preview() cannot be called by a statement that it previews, or by a "
                        "guarded one"),
                 errhint("Call it on its own, before the statement.")));
    if (pg::is_inside_ddl_with_event_triggers())
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("ddl_preview() cannot be called by a DDL statement"),
                        errdetail("The event triggers of that statement would see what is only "
                                  "previewed."),
                        errhint("Call it on its own, before the statement.")));
}

/// Is it certain that the statement takes no lock that is logged for standbys (ACCESS EXCLUSIVE) on
/// what others read?
bool is_harmless_to_standbys(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_IndexStmt:
    case T_CreateTrigStmt:
    case T_CommentStmt:
        break;
    case T_AlterTableStmt:
        if (AlterTableGetLockLevel(reinterpret_cast<const AlterTableStmt*>(statement)->cmds) >=
            AccessExclusiveLock)
            return false;
        break;
    default:
        return false;
    }
    std::span<const pg::LockTarget> locks = pg::find_lock_targets(statement).locks;
    return !locks.empty() && std::ranges::all_of(locks, [](const pg::LockTarget& target) {
        return target.mode < AccessExclusiveLock;
    });
}

void spare_standbys(const pg::PreviewedStatement& statement, bool with_standbys) {
    if (with_standbys || !pg::has_physical_standby() || is_harmless_to_standbys(statement.node()))
        return;
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("a physical standby is attached"),
             errdetail("ACCESS EXCLUSIVE locks of the preview would be replayed there, and stop or "
                       "cancel its readers."),
             errhint("Preview the statement on a server without standbys, or accept that: "
                     "ddl_preview(..., with_standbys => true).")));
}

// ---- Rows

/// What the holders of one lock have in common, as far as the reader may see it.
struct HolderAges {
    int64 idle; // µs; negative where nobody is idle in a transaction, or none is visible
    int64 xact; // likewise
};

HolderAges ages_of(std::span<const pg::LockHolder> holders, pg::NameLookup names) {
    HolderAges ages = {-1, -1};
    const TimestampTz now = GetCurrentTimestamp();
    for (const pg::LockHolder& holder : holders) {
        if (holder.session.pid == 0) {
            pg::PreparedTransaction prepared;
            if (pg::find_prepared_transaction(holder.prepared_xid, names, &prepared) &&
                prepared.prepared_at != 0)
                ages.xact = std::max(ages.xact, now - prepared.prepared_at);
            continue;
        }
        pg::BackendStatus status;
        if (!pg::read_backend_status(holder.session, &status) ||
            !pg::may_see_details(status.role, names))
            continue;
        if (status.xact_start != 0)
            ages.xact = std::max(ages.xact, now - status.xact_start);
        if (pg::is_idle_in_transaction(status.state) && status.state_start != 0)
            ages.idle = std::max(ages.idle, now - status.state_start);
    }
    return ages;
}

const char* relation_text(Oid relation, pg::NameLookup names) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    return pg::locked_object_text(tag, names);
}

/// The rows of one preview.
class PreviewRows {
  public:
    PreviewRows(const pg::PreviewedStatement& statement, const pg::PreviewedSteps& steps,
                pg::NameLookup names, ReturnSetInfo* result)
        : statement_(statement), steps_(steps), names_(names), result_(result) {}

    void put() {
        for (int i = 0; i < steps_.lock_count; i++)
            put_lock(steps_.locks[i], !steps_.has_work && i == steps_.lock_count - 1);
        if (steps_.has_work)
            put_work();
        // A preview that has seen nothing says so, and why.
        else if (steps_.lock_count == 0)
            put_nothing();
    }

  private:
    using Row = pg::ResultRow<column_count>;

    void set_text(Row* row, Column column, std::string_view text) const {
        if (!text.empty())
            row->set(column, pg::valid_text_value(text, false));
    }

    void start(Row* row) {
        row->set(col_step, Int32GetDatum(++step_));
        row->set(col_complete, BoolGetDatum(steps_.unseen == Unseen::nothing));
    }

    void set_stopped(Row* row, Stopped stopped) const {
        const char* text = core::stopped_text(stopped);
        if (text != nullptr)
            set_text(row, col_stops, text);
    }

    /// Why the preview ends here, and the polite way.
    void set_advice(Row* row, HeavyKind kind, Oid relation, std::string_view relation_name) const {
        const core::Microseconds max_hold = pg::settings.preview_max_hold * core::kMillisecond;
        std::string_view unseen =
            pg::call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
                return core::unseen_text(steps_.unseen, max_hold, memory);
            });
        std::string_view advice = pg::advice_for(statement_.node(), kind, relation, relation_name);
        if (unseen.empty() || advice.empty())
            set_text(row, col_advice, unseen.empty() ? advice : unseen);
        else
            set_text(row, col_advice, psprintf("%s %s", unseen.data(), advice.data()));
    }

    void put_lock(const pg::PreviewedLock& lock, bool last) {
        Row row;
        start(&row);
        set_text(&row, col_action, "lock");
        std::string_view relation = pg::locked_object_text(lock.tag, names_);
        set_text(&row, col_relation, relation);
        set_text(&row, col_lock_mode, GetLockmodeName(lock.tag.locktag_lockmethodid, lock.mode));
        if (lock.tag.locktag_type == LOCKTAG_RELATION)
            set_stopped(&row, core::stopped_by(lock.mode));
        std::span<const pg::LockHolder> holders = lock.holders;
        if (holders.empty())
            holders = pg::find_lock_holders(lock.tag, lock.mode, pg::compat::procno_of(MyProc));
        row.set(col_held_by, pg::pids_of(holders));
        HolderAges ages = ages_of(holders, names_);
        if (ages.idle >= 0)
            row.set(col_longest_idle, pg::interval_value(ages.idle));
        if (ages.xact >= 0)
            row.set(col_longest_xact, pg::interval_value(ages.xact));
        if (last)
            set_advice(&row, HeavyKind::none, InvalidOid, relation);
        row.put(result_);
    }

    void put_work() {
        Row row;
        start(&row);
        const pg::PreviewedWork& work = steps_.work;
        set_text(&row, col_action, core::action_name(work.kind));
        std::string_view relation = {};
        if (OidIsValid(work.relation))
            relation = relation_text(work.relation, names_);
        else if (work.new_name != nullptr)
            relation = work.new_name;
        set_text(&row, col_relation, relation);
        if (work.size >= 0)
            row.set(col_size, Int64GetDatum(work.size));
        set_stopped(&row, pg::stopped_by_all(steps_));
        set_advice(&row, work.kind, work.relation, relation);
        row.put(result_);
    }

    void put_nothing() {
        Row row;
        start(&row);
        if (steps_.unseen == Unseen::nothing)
            set_text(&row, col_action, core::action_name(HeavyKind::none));
        set_advice(&row, HeavyKind::none, InvalidOid, {});
        row.put(result_);
    }

    const pg::PreviewedStatement& statement_;
    const pg::PreviewedSteps& steps_;
    pg::NameLookup names_;
    ReturnSetInfo* result_;
    int step_ = 0;
};

pg::PreviewedSteps look_ahead(const pg::PreviewedStatement& statement, bool with_standbys) {
    pg::PreviewedSteps steps = pg::start_steps();
    Unseen why = pg::why_not_run(statement.node());
    if (why != Unseen::nothing) {
        pg::preview_by_rules(statement, why, &steps);
    } else {
        spare_standbys(statement, with_standbys);
        pg::run_preview(statement, pg::settings.preview_max_hold, &steps);
    }
    return steps;
}

/// With errors of the statement pointing into its own text.
void preview(const char* text, bool with_standbys, ReturnSetInfo* result) {
    ErrorContextCallback pointer = {error_context_stack, pg::point_into_previewed,
                                    const_cast<char*>(text)};
    error_context_stack = &pointer;
    // Names are looked up without a lock, which would have done this.
    AcceptInvalidationMessages();
    pg::PreviewedStatement statement = pg::parse_previewed(text);
    pg::PreviewedSteps steps = look_ahead(statement, with_standbys);
    error_context_stack = pointer.previous;
    pg::NameLookup names = pg::open_name_lookup();
    PreviewRows(statement, steps, names, result).put();
    pg::close_name_lookup(names);
}

const char* text_argument(FunctionCallInfo fcinfo) {
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("the statement to preview must not be null")));
    return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

} // namespace

} // namespace lockguard::features

/// ddl_preview(statement text, with_standbys bool). Errors: 42601 where the text is not one
/// statement; 0A000 for one that is not previewed; 25006, 55000 where it can't be run; and what the
/// statement itself raises.
Datum pg_lockguard_ddl_preview(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    ReturnSetInfo* result = pg::begin_result(fcinfo, "ddl_preview()", features::kTypes);
    features::require_fit_place();
    const char* text = features::text_argument(fcinfo);
    const bool with_standbys = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard preview", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    features::preview(text, with_standbys, result);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return Datum{0};
}
