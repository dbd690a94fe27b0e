// SELECT * FROM pg_lockguard_incidents: who kept whom waiting, oldest first, open ones too, as far
// as the ring in shared memory (shmem/incident_ring) goes back. And lock_graph(format, incident).
//
// The ring holds OIDs and locks; names are looked up here, as they are now, in the viewer's
// database: those of another one are never shown. What everybody may see is what everybody may see
// in pg_stat_activity and pg_locks; state, query and kind of the root are for members of
// pg_read_all_stats and of its role.

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/result_rows.h"
#include "boundary/valid_text.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"
#include "shmem/incident_ring.h"
#include "views/diagram_format.h"
#include "views/incident_picture.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_incidents);
PG_FUNCTION_INFO_V1(pg_lockguard_incident_graph);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_id,
    col_began,
    col_last_seen,
    col_ended,
    col_root_pid,
    col_root_gid,
    col_root_datname,
    col_root_usename,
    col_root_application_name,
    col_root_backend_type,
    col_root_state,
    col_root_query,
    col_root_first_statement,
    col_root_statements,
    col_lock_type,
    col_lock_object,
    col_mode_held,
    col_mode_wanted,
    col_waiters,
    col_sessions,
    col_time_waited,
    col_longest_wait,
    col_how_ended,
    col_part_of,
    col_lock_tree,
    column_count
};

constexpr Oid kTypes[column_count] = {
    INT8OID,     TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TEXTOID, NAMEOID,
    NAMEOID,     TEXTOID,        TEXTOID,        TEXTOID,        TEXTOID, TEXTOID, TEXTARRAYOID,
    TEXTOID,     TEXTOID,        TEXTOID,        TEXTOID,        INT4OID, INT4OID, INTERVALOID,
    INTERVALOID, TEXTOID,        INT8OID,        TEXTOID,
};

class IncidentRow : public pg::ResultRow<column_count> {
  public:
    void set_mode(Column column, uint8 mode) {
        if (mode != NoLock && mode <= MaxLockMode)
            set_text(column, GetLockmodeName(DEFAULT_LOCKMETHOD, mode));
    }
    void set_time(Column column, TimestampTz time) {
        if (time != 0)
            set(column, TimestampTzGetDatum(time));
    }
};

void set_statements(IncidentRow* row, const pg::Incident& incident) {
    const int count = std::min<int>(incident.statement_count, pg::kMostTrackedStatements);
    if (count == 0)
        return;
    auto* texts = pg::new_array<Datum>(static_cast<std::size_t>(count));
    for (int i = 0; i < count; i++) {
        const pg::TrackedStatement& statement = incident.statements[i];
        const std::size_t size = std::min<std::size_t>(statement.size, sizeof(statement.text));
        texts[i] = pg::valid_text_value({statement.text, size}, statement.cut);
        if (statement.number == incident.first_to_touch)
            row->set(col_root_first_statement, texts[i]);
    }
    row->set(col_root_statements,
             PointerGetDatum(construct_array(texts, count, TEXTOID, -1, false, TYPALIGN_INT)));
}

void set_root(IncidentRow* row, const pg::Incident& incident, pg::NameLookup names) {
    row->set(col_root_pid, Int32GetDatum(incident.root.pid));
    row->set_field(col_root_gid, incident.gid);
    pg::PreparedTransaction prepared;
    // One that was prepared before the server's start, and still is.
    if (incident.root.pid == 0 && incident.gid[0] == '\0' && incident.ended == 0 &&
        pg::find_prepared_transaction(incident.root.lxid, names, &prepared))
        row->set_text(col_root_gid, prepared.gid);
    row->set_name(col_root_datname, pg::database_name(incident.database, names));
    row->set_name(col_root_usename, pg::role_name(incident.role, names));
    row->set_field(col_root_application_name, incident.application);
    if (incident.backend_type < 0)
        return;
    if (!pg::may_see_details(incident.role, names)) {
        row->set_text(col_root_query, "<insufficient privilege>");
        return;
    }
    if (incident.worker_type[0] != '\0')
        row->set_field(col_root_backend_type, incident.worker_type);
    else
        row->set_text(col_root_backend_type,
                      GetBackendTypeDesc(static_cast<BackendType>(incident.backend_type)));
    row->set_text(col_root_state, pg::state_name(static_cast<BackendState>(incident.state)));
    row->set_field(col_root_query, incident.query);
    set_statements(row, incident);
}

void set_lock(IncidentRow* row, const pg::Incident& incident, pg::NameLookup names) {
    if (!incident.lock_known) {
        row->set_text(col_lock_type, "safesnapshot");
        row->set_text(col_lock_object, "safe snapshot");
        return;
    }
    if (incident.lock.locktag_type <= LOCKTAG_LAST_TYPE)
        row->set_text(col_lock_type, LockTagTypeNames[incident.lock.locktag_type]);
    row->set_text(col_lock_object, pg::locked_object_text(incident.lock, names));
    row->set_mode(col_mode_held, incident.mode_held);
    row->set_mode(col_mode_wanted, incident.mode_wanted);
}

void put_row(const pg::Incident& incident, pg::NameLookup names, ReturnSetInfo* result) {
    IncidentRow row;
    row.set(col_id, Int64GetDatum(incident.id));
    row.set_time(col_began, incident.began);
    row.set_time(col_last_seen, incident.last_seen);
    row.set_time(col_ended, incident.ended);
    set_root(&row, incident, names);
    set_lock(&row, incident, names);
    row.set(col_waiters, Int32GetDatum(static_cast<int32>(incident.waiters)));
    row.set(col_sessions, Int32GetDatum(static_cast<int32>(incident.sessions)));
    row.set(col_time_waited, pg::interval_value(incident.time_waited));
    row.set(col_longest_wait, pg::interval_value(incident.longest));
    std::string_view end = core::incident_end_name(incident.end);
    row.set_text(col_how_ended, end.data());
    if (incident.part_of != 0)
        row.set(col_part_of, Int64GetDatum(incident.part_of));
    IncidentPicture picture = incident_picture(incident, names);
    std::string_view tree =
        pg::call_core(CurrentMemoryContext, [&picture](std::pmr::memory_resource& memory) {
            return core::picture_tree_text(picture.picture,
                                           {picture.labels, picture.picture.nodes.size()}, memory);
        });
    if (!tree.empty())
        row.set(col_lock_tree, pg::labeled_drawing_value(tree));
    row.put(result);
}

void put_rows(ReturnSetInfo* result) {
    MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard incident",
                                                      ALLOCSET_DEFAULT_SIZES);
    auto* incident = pg::new_object<pg::Incident>();
    auto places = pg::recorded_incidents();
    pg::NameLookup names = pg::open_name_lookup();
    MemoryContext caller = MemoryContextSwitchTo(row_context);
    for (const pg::IncidentPlace& place : places) {
        CHECK_FOR_INTERRUPTS();
        // It may have made room meanwhile for one that comes later.
        if (!pg::read_incident(place.place, incident) || incident->id != place.id)
            continue;
        put_row(*incident, names, result);
        MemoryContextReset(row_context);
    }
    MemoryContextSwitchTo(caller);
    pg::close_name_lookup(names);
    MemoryContextDelete(row_context);
}

/// Copies that incident. Raises 22023 where it is not in the record.
void find_incident(int64 id, pg::Incident* incident) {
    auto places = pg::recorded_incidents();
    for (const pg::IncidentPlace& place : places) {
        if (place.id == id && pg::read_incident(place.place, incident) && incident->id == id)
            return;
    }
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("there is no incident %lld in the record", static_cast<long long>(id)),
             places.empty() ? errdetail("The record is empty.")
                            : errdetail("The record has %zu incidents, numbered from %lld to %lld.",
                                        places.size(), static_cast<long long>(places.front().id),
                                        static_cast<long long>(places.back().id)),
             errhint("SELECT id FROM pg_lockguard_incidents shows those that there are.")));
}

} // namespace

} // namespace lockguard::features

/// pg_lockguard_incidents() returns setof record. Errors: 55000 where the library is not preloaded,
/// or the SQL declaration is of another version.
Datum pg_lockguard_incidents(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    pg::require_shared_state();
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_lockguard_incidents()", features::kTypes);
    features::put_rows(result);
    return Datum{0};
}

/// lock_graph(format text, incident bigint) returns text. Errors: 22023 for an unknown format, or
/// an incident that is not in the record; 55000 where the library is not preloaded; 53200.
Datum pg_lockguard_incident_graph(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    core::DiagramFormat format = features::diagram_format(PG_GETARG_TEXT_PP(0));
    pg::require_shared_state();
    auto* incident = pg::new_object<pg::Incident>();
    features::find_incident(PG_GETARG_INT64(1), incident);
    pg::NameLookup names = pg::open_name_lookup();
    features::IncidentPicture picture = features::incident_picture(*incident, names);
    std::size_t count = picture.picture.nodes.size();
    const char* state =
        incident->state < 0 ? nullptr : pg::state_name(static_cast<BackendState>(incident->state));
    if (count > 0 && state != nullptr && pg::may_see_details(incident->role, names))
        picture.labels[0].state = state;
    pg::close_name_lookup(names);
    std::string_view text =
        pg::call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
            return core::diagram_text(picture.picture, {picture.labels, count}, format, memory);
        });
    PG_RETURN_TEXT_P(cstring_to_text_with_len(text.data(), static_cast<int>(text.size())));
}
