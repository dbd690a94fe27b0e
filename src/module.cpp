// The entry point: wiring only.

#include "boundary/compat.h"
#include "boundary/settings.h"
#include "guard/ddl_guard.h"
#include "guard/heavy_watch.h"
#include "guard/stall_limit.h"
#include "locks/statement_watch.h"
#include "sessions/failure_watch.h"
#include "shmem/cancel_notice.h"
#include "shmem/counters.h"
#include "shmem/event_ring.h"
#include "shmem/failure_notes.h"
#include "shmem/guarded_sessions.h"
#include "shmem/imported_snapshots.h"
#include "shmem/incident_ring.h"
#include "shmem/prepared_names.h"
#include "shmem/protections.h"
#include "shmem/record_file.h"
#include "shmem/running_work.h"
#include "shmem/termination_notice.h"
#include "shmem/tracked_statements.h"
#include "shmem/wait_board.h"
#include "shmem/wait_decisions.h"
#include "shmem/wait_table.h"
#include "shmem/worker_state.h"
#include "worker/blocker_worker.h"
#include "worker/victim_notice.h"

extern "C" {
LOCKGUARD_MODULE_MAGIC("pg_lockguard", "1.0.0");

PGDLLEXPORT void _PG_init(void);
}

namespace {

using namespace lockguard;

/// Everything of ours in shared memory: a line for each owner.
constexpr const pg::SharedPart* kSharedParts[] = {
    &pg::kCancelNoticesPart,      &pg::kCountersPart,        &pg::kEventRingPart,
    &pg::kGuardWatcherPart,       &pg::kGuardedPreparedPart, &pg::kGuardedSessionsPart,
    &pg::kImportedSnapshotsPart,  &pg::kRunningWorkPart,     &pg::kServerProtectionPart,
    &pg::kSessionProtectionsPart, &pg::kStatisticsPart,      &pg::kTerminationNoticesPart,
    &pg::kTrackedStatementsPart,  &pg::kWaitBoardPart,       &pg::kWaitDecisionsPart,
    &pg::kWorkerFusesPart,        &pg::kWorkerProcnoPart,    &pg::kFailureNotesPart,
    &pg::kIncidentRingPart,       &pg::kPreparedNamesPart,   &pg::kWaitTablePart,
};

} // namespace

/// Runs once in each process that loads the library: in the postmaster where it is preloaded, else
/// in the session that loads it. lock_tree() and the guard work in both cases; the worker and what
/// needs shared memory only in the first.
void _PG_init(void) {
    pg::define_settings({.protection_changed = pg::protection_changed,
                         .max_stall_changed = pg::max_stall_changed,
                         .parallel_log_level_changed = pg::parallel_log_level_changed});
    features::install_ddl_guard();
    if (process_shared_preload_libraries_in_progress) {
        pg::set_up_shared_state(kSharedParts);
        pg::install_statement_watch();
        pg::set_up_record_file();
        pg::install_failure_watch();
        pg::install_prepared_names();
        features::install_victim_notice();
        features::register_blocker_worker();
    }
}
