// SELECT * FROM pg_lockguard_events: what the guard and the worker did, oldest first, as far as the
// ring in shared memory (shmem/event_ring) goes back.
//
// The ring holds OIDs; names are looked up here, as they are now, in the viewer's database. Its
// text has the encodings of those who wrote it, and is made valid here. Who may see what follows
// pg_stat_activity, by the role of the session that a column is about: the state, the idle time and
// the query of a blocker are for members of pg_read_all_stats and of its role.
// The lock tree shows pids, modes and application names alone, which everybody may see.

#include "shmem/event_ring.h"

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/result_rows.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"
#include "shmem/segment.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_events);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_id,
    col_at,
    col_kind,
    col_pid,
    col_datname,
    col_usename,
    col_application_name,
    col_command,
    col_relation,
    col_lock_mode,
    col_waited,
    col_stall,
    col_attempts,
    col_blocker_pid,
    col_blocker_usename,
    col_blocker_application_name,
    col_blocker_state,
    col_blocker_idle,
    col_blocker_query,
    col_reason,
    col_lock_tree,
    col_repeats,
    col_last_at,
    column_count
};

constexpr Oid kTypes[column_count] = {
    INT8OID, TIMESTAMPTZOID, TEXTOID,     INT4OID,     NAMEOID, NAMEOID, TEXTOID,        TEXTOID,
    TEXTOID, TEXTOID,        INTERVALOID, INTERVALOID, INT4OID, INT4OID, NAMEOID,        TEXTOID,
    TEXTOID, INTERVALOID,    TEXTOID,     TEXTOID,     TEXTOID, INT8OID, TIMESTAMPTZOID,
};

class EventRow : public pg::ResultRow<column_count> {
  public:
    void set_duration(Column column, int64 duration) {
        if (duration >= 0)
            set(column, pg::interval_value(duration));
    }
};

void set_blocker(EventRow* row, const pg::Event& event, pg::NameLookup lookup) {
    row->set(col_blocker_pid, Int32GetDatum(event.blocker_pid));
    row->set_name(col_blocker_usename, pg::role_name(event.blocker_role, lookup));
    row->set_field(col_blocker_application_name, event.blocker_application);
    if (!pg::may_see_details(event.blocker_role, lookup)) {
        row->set_text(col_blocker_query, "<insufficient privilege>");
        return;
    }
    if (event.blocker_state >= 0)
        row->set_text(col_blocker_state,
                      pg::state_name(static_cast<BackendState>(event.blocker_state)));
    row->set_duration(col_blocker_idle, event.blocker_idle);
    row->set_field(col_blocker_query, event.blocker_query);
}

void put_row(const pg::Event& event, pg::NameLookup lookup, ReturnSetInfo* result) {
    EventRow row;
    row.set(col_id, Int64GetDatum(event.id));
    row.set(col_at, TimestampTzGetDatum(event.at));
    row.set_text(col_kind, pg::event_kind_name(event.kind));
    if (event.pid != 0)
        row.set(col_pid, Int32GetDatum(event.pid));
    row.set_name(col_datname, pg::database_name(event.database, lookup));
    row.set_name(col_usename, pg::role_name(event.role, lookup));
    row.set_field(col_application_name, event.application);
    row.set_field(col_command, event.command);
    if (event.relation_known) {
        LOCKTAG tag;
        SET_LOCKTAG_RELATION(tag, event.relation_database, event.relation);
        row.set_text(col_relation, pg::locked_object_text(tag, lookup));
    }
    if (event.lock_mode > NoLock && event.lock_mode <= MaxLockMode)
        row.set_text(col_lock_mode, GetLockmodeName(DEFAULT_LOCKMETHOD, event.lock_mode));
    row.set_duration(col_waited, event.waited);
    row.set_duration(col_stall, event.stall);
    if (event.attempts >= 0)
        row.set(col_attempts, Int32GetDatum(event.attempts));
    if (event.has_blocker)
        set_blocker(&row, event, lookup);
    row.set_field(col_reason, event.reason);
    std::string_view tree(event.lock_tree, strnlen(event.lock_tree, sizeof(event.lock_tree) - 1));
    if (!tree.empty())
        row.set(col_lock_tree, pg::labeled_drawing_value(tree));
    row.set(col_repeats, Int64GetDatum(event.repeats));
    row.set(col_last_at, TimestampTzGetDatum(event.last_at));
    row.put(result);
}

void put_rows(ReturnSetInfo* result) {
    MemoryContext row_context =
        AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard event", ALLOCSET_DEFAULT_SIZES);
    auto* event = pg::new_object<pg::Event>();
    pg::NameLookup lookup = pg::open_name_lookup();
    std::span<const pg::EventPlace> places = pg::recorded_events();
    MemoryContext caller = MemoryContextSwitchTo(row_context);
    for (const pg::EventPlace& place : places) {
        CHECK_FOR_INTERRUPTS();
        if (!pg::read_event(place, event))
            continue;
        put_row(*event, lookup, result);
        MemoryContextReset(row_context);
    }
    MemoryContextSwitchTo(caller);
    pg::close_name_lookup(lookup);
    MemoryContextDelete(row_context);
}

} // namespace

} // namespace lockguard::features

/// pg_lockguard_events() returns setof record. Errors: 55000 where the library is not preloaded, or
/// the SQL declaration is of another version.
Datum pg_lockguard_events(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    pg::require_shared_state();
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_lockguard_events()", features::kTypes);
    features::put_rows(result);
    return Datum{0};
}
