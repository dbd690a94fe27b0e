// SELECT * FROM pg_lockguard_now: gauges of this moment for a monitoring system, in one row.
//
// One copy of the wait-for graph, and the states of the sessions in it; no strings but the
// application of one root. Waits for no lock and needs no shared memory of ours; what does is null
// without it. The worst root is that with the most sessions behind it.
//
// The counts and waits can be had from pg_locks by everybody. What follows from the state of a
// session, or from the start of its transaction, is as in pg_stat_activity: null where the reader
// may not see it of every session concerned.

#include "core/lock_forest.h"
#include "core/lock_graph.h"

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/result_rows.h"
#include "locks/lock_snapshot.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"
#include "shmem/wait_board.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_now);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_sessions_waiting,
    col_longest_wait,
    col_roots,
    col_roots_idle_in_transaction,
    col_worst_root_pid,
    col_worst_root_application_name,
    col_worst_root_sessions_behind,
    col_worst_root_age,
    col_statements_at_low_priority,
    col_sessions_on_cycle,
    column_count
};

constexpr Oid kTypes[column_count] = {
    INT4OID, FLOAT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, INT4OID, FLOAT8OID, INT4OID, INT4OID,
};

using Row = pg::ResultRow<column_count>;

/// What is counted. Plain data.
struct Gauges {
    int32 waiting;
    TimestampTz oldest_wait; // 0 where there is none
    int32 roots;
    int32 idle_roots;
    bool idle_roots_known;
    int32 on_cycle;
    const core::ForestRow* worst; // null where nobody waits
};

Datum seconds(int64 microseconds) {
    return Float8GetDatum(static_cast<double>(Max(microseconds, 0)) / 1e6);
}

/// The rows of the lock tree, in its order.
std::span<const core::ForestRow> grow_forest(const pg::WaitGraph& waits) {
    std::size_t count = waits.graph.sessions.size();
    auto* xact_starts = pg::new_array<core::Timestamp>(count);
    for (std::size_t i = 0; i < count; i++)
        xact_starts[i] = pg::transaction_start(waits.snapshot.sessions[i].id);
    return pg::call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::grow_lock_forest(waits.graph, {xact_starts, count}, memory);
    });
}

/// Is the state of that session for this reader?
bool may_see_state(const pg::SnapshotSession& session, pg::NameLookup names) {
    return session.id.pid == 0 || pg::may_see_details(session.role, names);
}

void count_root(const pg::SnapshotSession& session, pg::NameLookup names, Gauges* gauges) {
    gauges->roots++;
    pg::BackendStateOnly state;
    if (session.id.pid == 0 || !pg::read_backend_state(session.id, &state))
        return;
    if (!may_see_state(session, names))
        gauges->idle_roots_known = false;
    else if (pg::is_idle_in_transaction(state.state))
        gauges->idle_roots++;
}

Gauges take_gauges(const pg::LockSnapshot& snapshot, std::span<const core::ForestRow> rows,
                   pg::NameLookup names) {
    Gauges gauges = {};
    gauges.idle_roots_known = true;
    for (int i = 0; i < snapshot.wait_count; i++) {
        const pg::SnapshotWait& wait = snapshot.waits[i];
        if (!wait.safe_snapshot &&
            (gauges.oldest_wait == 0 || wait.wait_start < gauges.oldest_wait))
            gauges.oldest_wait = wait.wait_start;
    }
    for (const core::ForestRow& row : rows) {
        gauges.on_cycle += row.deadlock ? 1 : 0;
        const pg::SnapshotSession& session = snapshot.sessions[row.session];
        gauges.waiting += session.first_wait >= 0 ? 1 : 0;
        if (row.parent != nullptr)
            continue;
        count_root(session, names, &gauges);
        if (gauges.worst == nullptr || row.blocks > gauges.worst->blocks)
            gauges.worst = &row;
    }
    return gauges;
}

void set_worst_root(const pg::LockSnapshot& snapshot, const core::ForestRow& worst, TimestampTz now,
                    pg::NameLookup names, Row* row) {
    const pg::SnapshotSession& session = snapshot.sessions[worst.session];
    row->set(col_worst_root_pid, Int32GetDatum(session.id.pid));
    row->set(col_worst_root_sessions_behind, Int32GetDatum(static_cast<int32>(worst.blocks)));
    if (session.id.pid == 0) {
        pg::PreparedTransaction prepared;
        if (pg::find_prepared_transaction(session.prepared_xid, names, &prepared) &&
            prepared.prepared_at != 0)
            row->set(col_worst_root_age, seconds(now - prepared.prepared_at));
        return;
    }
    pg::BackendStatus status;
    if (!pg::read_backend_status(session.id, &status))
        return;
    row->set(col_worst_root_application_name, PointerGetDatum(status.application_name_text));
    if (status.xact_start != 0 && pg::may_see_details(status.role, names))
        row->set(col_worst_root_age, seconds(now - status.xact_start));
}

/// Looks, and fills in all but what needs shared memory of ours.
void look(Row* row) {
    pg::WaitGraph waits;
    Gauges gauges = {};
    gauges.idle_roots_known = true;
    TimestampTz now = 0;
    if (pg::take_wait_graph(&waits)) {
        const pg::LockSnapshot& snapshot = waits.snapshot;
        auto rows = grow_forest(waits);
        pg::NameLookup names = pg::open_name_lookup();
        gauges = take_gauges(snapshot, rows, names);
        now = GetCurrentTimestamp();
        if (gauges.worst != nullptr)
            set_worst_root(snapshot, *gauges.worst, now, names, row);
        pg::close_name_lookup(names);
    }
    row->set(col_sessions_waiting, Int32GetDatum(gauges.waiting));
    row->set(col_longest_wait, seconds(gauges.oldest_wait == 0 ? 0 : now - gauges.oldest_wait));
    row->set(col_roots, Int32GetDatum(gauges.roots));
    if (gauges.idle_roots_known)
        row->set(col_roots_idle_in_transaction, Int32GetDatum(gauges.idle_roots));
    row->set(col_sessions_on_cycle, Int32GetDatum(gauges.on_cycle));
}

} // namespace

} // namespace lockguard::features

/// pg_lockguard_now() returns one row. Errors: 55000 where the SQL declaration is of another
/// version than the library, 53200.
Datum pg_lockguard_now(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    using namespace lockguard::features;
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_lockguard_now()", kTypes);
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard now", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    Row row;
    look(&row);
    if (pg::shared_state_available()) {
        int32 count = 0;
        for (int procno = 0; procno < MaxBackends; procno++) {
            pg::LowPriorityWait wait;
            count += pg::read_low_priority_wait(procno, &wait) ? 1 : 0;
        }
        row.set(col_statements_at_low_priority, Int32GetDatum(count));
    }
    row.put(result);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return Datum{0};
}
