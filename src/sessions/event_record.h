// An event on its way into the record: who was in the way, the ring (shmem/event_ring), and
// optionally a line in the server log (pg_lockguard.log_events).
#pragma once

#include "shmem/event_ring.h"

namespace lockguard::pg {

/// Fills in the blocker's part from its status slot, where it is still there. May ereport out of
/// memory.
void set_event_blocker(Event* event, int procno, int pid);

/// Names for the line in the server log; empty where unknown.
struct EventNames {
    std::string_view database;
    std::string_view role;
    std::string_view blocker_role;
    std::string_view relation;
};

/// Those of the roles and databases in an event, where there is to be a line; that of the relation
/// is the caller's. In the current memory context. Needs a transaction; waits for no lock.
EventNames names_for_log(const Event& event);

/// Gives the event its number and time, puts it into the ring, and writes the line of the server
/// log that pg_lockguard.log_events asks for. Without shared memory it only logs. Never raises an
/// ERROR, nor serves an interrupt.
void record_event(Event* event, const EventNames& names);

} // namespace lockguard::pg
