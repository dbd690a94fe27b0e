// Incidents: the worker follows who keeps whom waiting (core/incident_tracker), records it
// (shmem/incident_ring), finds out how it ended, and says so in the server log
// (pg_lockguard.log_incidents). On the way it adds up the waits (worker/wait_sampling).
//
// While anybody waits it looks every kShortestGap, as long as the worker does not take more of a
// processor than kProcessorShare for that; else as often as that allows, and every
// pg_lockguard.worker_interval at least.
#pragma once

#include "core/time.h"

#include "boundary/compat.h"

namespace lockguard::features {

struct IncidentWatch;

/// Begins: incidents that a worker before this one has left open are taken over.
IncidentWatch* start_incident_watch();

/// Looks, where it is time to. Returns when to do so again, by the steady clock; kUnknownTime where
/// there is nothing to look for (pg_lockguard.incident_min_wait = -1). Allocates in `memory`, which
/// is the caller's to reset, also after an ERROR: an incident is as it was before the look then.
core::Timestamp watch_incidents(IncidentWatch* watch, MemoryContext memory);

} // namespace lockguard::features
