// A session that has kept others waiting for longer than pg_lockguard.ddl_max_stall: what is said
// of it, whether it may be ended, and how.
#pragma once

#include "core/words/stalls.h"

#include "locks/kept_waiting_by.h"
#include "locks/lock_snapshot.h"
#include "shmem/event_ring.h"
#include "shmem/guarded_sessions.h"

namespace lockguard::pg {

/// What one look has seen of it. Everything is in the memory of the look.
struct StallCase {
    const LockSnapshot* snapshot;
    TimestampTz taken_at;
    core::SessionIndex index; // of the snapshot's sessions
    int procno;
    GuardedSession session; // what it shows
    KeptWaitingBy kept;     // whom it keeps waiting: somebody
    core::StallKind kind;
};

/// The wait that ends the longest chain: for a lock of the session.
const SnapshotWait& awaited_wait(const StallCase& c);

/// Why, as the session itself is told.
StallReport report_of(const StallCase& c);

enum class StallWords { detail, hint, victim_detail };
/// In words, without names of any database. In the current memory context; may ereport.
const char* stall_words(const StallCase& c, StallWords words);

/// An event: who has waited for longest, for what, and for whom, as they are now. In the current
/// memory context. May ereport.
Event* new_stall_event(const StallCase& c, EventKind kind);

/// Records it. May ereport.
void record_stall(Event* event, const char* reason);
void record_stall(const StallCase& c, EventKind kind, const char* reason);

/// Why it may not be ended by the worker's rules; null where it may. What can't be found out now is
/// a reason as well. Runs a transaction. In the current memory context or static; may ereport.
const char* why_stall_is_spared(const StallCase& c);

} // namespace lockguard::pg
