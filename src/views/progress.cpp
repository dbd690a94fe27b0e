// SELECT * FROM pg_lockguard_progress: the statements that wait at low priority, one row each.
//
// A statement shows its wait in shared memory (shmem/wait_board); who holds the lock is asked
// when somebody looks. All of it is visible to everybody, as pg_locks is: no state, no query.

#include "core/words/waits.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/result_rows.h"
#include "locks/lock_holders.h"
#include "sessions/object_names.h"
#include "shmem/running_work.h"
#include "shmem/wait_board.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_progress);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_pid,
    col_datname,
    col_usename,
    col_command,
    col_relation,
    col_lock_mode,
    col_phase,
    col_attempt,
    col_waited,
    col_longest_stall,
    col_holders,
    col_deadline,
    col_next_step,
    col_work,
    column_count
};

constexpr Oid kTypes[column_count] = {
    INT4OID, NAMEOID,     NAMEOID,     TEXTOID,      TEXTOID,        TEXTOID, TEXTOID,
    INT4OID, INTERVALOID, INTERVALOID, INT4ARRAYOID, TIMESTAMPTZOID, TEXTOID, TEXTOID,
};

const char* phase_name(pg::WaitPhase phase) {
    switch (phase) {
    case pg::WaitPhase::trying:
        return "trying";
    case pg::WaitPhase::waiting:
        return "waiting";
    case pg::WaitPhase::backing_off:
        return "backing off";
    case pg::WaitPhase::queued:
        return "queued";
    case pg::WaitPhase::running:
        return "running";
    case pg::WaitPhase::terminating:
        return "terminating";
    }
    return "";
}

core::NextStep next_step_of(pg::WaitPhase phase) {
    switch (phase) {
    case pg::WaitPhase::trying:
        return core::NextStep::try_locks;
    case pg::WaitPhase::waiting:
        return core::NextStep::await_holders;
    case pg::WaitPhase::backing_off:
        return core::NextStep::retry;
    case pg::WaitPhase::queued:
        return core::NextStep::stand_in_queue;
    case pg::WaitPhase::running:
        return core::NextStep::finish;
    case pg::WaitPhase::terminating:
        return core::NextStep::end_holders;
    }
    return core::NextStep::try_locks;
}

/// Whole milliseconds.
Datum interval_of(int64 microseconds) {
    return pg::interval_value(std::max<int64>(microseconds, 0) / 1000 * 1000);
}

/// Ascending; 0 for a prepared transaction. None once the statement has the lock.
Datum holder_pids(int procno, const pg::LowPriorityWait& wait) {
    if (wait.phase == pg::WaitPhase::running || !wait.lock_known)
        return PointerGetDatum(construct_empty_array(INT4OID));
    return pg::pids_of(pg::find_lock_holders(wait.tag, wait.mode, procno));
}

/// A statement that works, and has not waited or has shown nothing of that.
pg::LowPriorityWait wait_of_running(const pg::RunningWork& work) {
    pg::LowPriorityWait wait = {};
    wait.pid = work.pid;
    wait.lxid = work.lxid;
    wait.database = work.database;
    wait.role = work.role;
    wait.command = work.command;
    wait.phase = pg::WaitPhase::running;
    wait.started_at = work.statement_began;
    return wait;
}

/// "rewriting public.orders". Of another database the relation is told by its OID.
const char* work_text(const pg::RunningWork& work, pg::NameLookup names) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, work.database, work.relation);
    const char* relation =
        OidIsValid(work.relation) ? pg::locked_object_text(tag, names) : "a relation";
    return pg::call_core(CurrentMemoryContext,
                         [&](std::pmr::memory_resource& memory) {
                             return core::work_text(work.kind, relation, memory);
                         })
        .data();
}

/// \param work  null where it has begun none that takes long
void put_row(int procno, const pg::LowPriorityWait& wait, const pg::RunningWork* work,
             pg::NameLookup names, ReturnSetInfo* result) {
    pg::ResultRow<column_count> row;
    TimestampTz now = GetCurrentTimestamp();
    auto set_text = [&row](Column column, const char* text) {
        row.set(column, CStringGetTextDatum(text));
    };

    row.set(col_pid, Int32GetDatum(wait.pid));
    row.set_name(col_datname, pg::database_name(wait.database, names));
    row.set_name(col_usename, pg::role_name(wait.role, names));
    set_text(col_command, GetCommandTagName(wait.command));
    if (wait.lock_known) {
        set_text(col_relation, pg::locked_object_text(wait.tag, names));
        set_text(col_lock_mode, GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode));
    }
    set_text(col_phase, phase_name(wait.phase));
    row.set(col_attempt, Int32GetDatum(static_cast<int32>(wait.attempts)));
    row.set(col_waited, interval_of(now - wait.started_at));
    row.set(col_longest_stall, interval_of(wait.longest_stall));
    row.set(col_holders, holder_pids(procno, wait));
    if (wait.deadline != 0)
        row.set(col_deadline, TimestampTzGetDatum(wait.deadline));
    int64 within = wait.phase_end == 0 ? -1 : std::max<int64>(wait.phase_end - now, 0);
    auto next_step = pg::call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::next_step_text(next_step_of(wait.phase), within, wait.against_wraparound,
                                    memory);
    });
    set_text(col_next_step, next_step.data());
    if (work != nullptr)
        set_text(col_work, work_text(*work, names));
    row.put(result);
}

} // namespace

} // namespace lockguard::features

/// The function under the view pg_lockguard_progress. Errors: 55000 without shared memory, or where
/// the SQL declaration is of another version than the library; 53200.
Datum pg_lockguard_progress(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    pg::require_shared_state();
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_lockguard_progress()", features::kTypes);
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard progress",
                                                  ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    pg::NameLookup names = pg::open_name_lookup();
    for (int procno = 0; procno < MaxBackends; procno++) {
        CHECK_FOR_INTERRUPTS();
        pg::LowPriorityWait wait;
        pg::RunningWork work;
        const bool waits = pg::read_low_priority_wait(procno, &wait);
        const bool works = pg::read_running_work(procno, &work);
        if (!waits && works)
            wait = features::wait_of_running(work);
        if (waits || works)
            features::put_row(procno, wait, works ? &work : nullptr, names, result);
    }
    pg::close_name_lookup(names);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return Datum{0};
}
