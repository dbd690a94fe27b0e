// The entry point: wiring only. What is wired stands in features/.

#include "boundary/compat.h"
#include "boundary/settings.h"
#include "guard/ddl_guard.h"
#include "guard/stall_limit.h"
#include "shmem/shared_state.h"
#include "worker/blocker_worker.h"
#include "worker/victim_notice.h"

extern "C" {
LOCKGUARD_MODULE_MAGIC("pg_lockguard", "0.4.0");

PGDLLEXPORT void _PG_init(void);
}

/// Runs once in each process that loads the library: in the postmaster where it is preloaded, else
/// in the session that loads it. lock_tree() and the guard work in both cases; the worker and what
/// needs shared memory only in the first.
void _PG_init(void) {
    using namespace lockguard;
    pg::define_settings({.protection_changed = pg::protection_changed,
                         .max_stall_changed = pg::max_stall_changed});
    features::install_ddl_guard();
    if (process_shared_preload_libraries_in_progress) {
        pg::set_up_shared_state();
        features::install_victim_notice();
        features::register_blocker_worker();
    }
}
