// What is recorded of an incident at its peak: the root, the lock, and the picture.
#pragma once

#include "core/incident_tracker.h"

#include "locks/lock_snapshot.h"
#include "shmem/incident_ring.h"

namespace lockguard::pg {

/// A look at the lock table, with what the incidents need of it. In the memory context of the look.
struct IncidentScene {
    WaitGraph waits;
    core::SeenSession* sessions;  // parallel to the graph's sessions
    core::Timestamp* xact_starts; // likewise
    std::span<const core::ForestRow> rows;
    TimestampTz at;
};

/// Takes the look. Returns false, and an empty scene, where nobody waits. May ereport out of
/// memory.
bool take_incident_scene(IncidentScene* scene);

/// The wait of the one that the root itself has kept waiting longest; null where it is not known.
/// *held is what the root holds of that lock.
const SnapshotWait* wait_for_root(const IncidentScene& scene, core::SessionIndex root,
                                  core::LockMode* held);

/// Fills in the root, the lock and the picture. The numbers are left as they are.
void capture_incident(const IncidentScene& scene, core::SessionIndex root, Incident* incident);

} // namespace lockguard::pg
