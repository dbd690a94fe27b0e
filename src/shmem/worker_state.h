// What there is of the worker in shared memory: which process it is, and its fuses.
#pragma once

#include "core/fuses.h"
#include "shmem/segment.h"

namespace lockguard::pg {

/// Says which process is the worker, so that others can wake it: this one, until it exits.
void announce_worker();

/// Wakes the worker, where there is one and it looks at all: somebody begins to wait. It looks at
/// once, and so knows when it must look again. Costs a few instructions; never ereports.
void wake_worker();

/// What limits the worker, over its restarts. No lock: it alone uses them.
struct WorkerFuses {
    core::TerminationFuse terminations;
    core::RequestFuse requests[FLEXIBLE_ARRAY_MEMBER]; // by the procno of the process that waits
};

/// Null where not preloaded.
///
/// \param rehearsal  those of the worker that only logs what it would do
WorkerFuses* worker_fuses(bool rehearsal);

extern const SharedPart kWorkerProcnoPart;
extern const SharedPart kWorkerFusesPart;

} // namespace lockguard::pg
