// Incidents: a table of the latest in shared memory (pg_lockguard.incidents_max), open ones among
// them. It stores; what happens is for worker/incident_watch, which alone writes.
//
// The LWLock "pg_lockguard incidents" guards all of it. It is held for the copy of one incident, or
// for the numbers of all of them, and nothing else.
//
// An incident that has ended makes room for a new one, the oldest first; an open one does not.
#pragma once

#include "core/incident_end.h"
#include "core/incident_tracker.h"
#include "core/wait_picture.h"

#include "boundary/compat.h"
#include "shmem/event_ring.h"
#include "shmem/segment.h"
#include "shmem/tracked_statements.h"

namespace lockguard::pg {

/// What of the picture at the peak is kept.
inline constexpr core::PictureLimits kIncidentPicture = {200, 100};
inline constexpr int kIncidentLocks = 64; // locks that are waited for in it
inline constexpr int kIncidentTextBytes = 2048;

/// A node of the picture, as core::PictureNode and core::PictureLabel have it.
struct IncidentNode {
    int32 pid;
    uint32 folded;
    uint32 waited;      // ms
    uint16 above;       // kNoIncidentNode for a root
    uint16 lock;        // index into Incident::locks, or kNoIncidentLock
    uint16 application; // where it stands in Incident::text: a NUL-terminated string
    uint8 mode;         // as PictureNode::mode
    uint8 wants;        // NoLock where it does not wait, or for a safe snapshot
    bool holds;
    bool deadlock;
    bool mixed;
    bool safe_snapshot; // waits for one
};
inline constexpr uint16 kNoIncidentNode = UINT16_MAX;
inline constexpr uint16 kNoIncidentLock = UINT16_MAX;

struct IncidentEdge {
    uint16 waiter;
    uint16 blocker;
    uint8 mode;
    bool holds;
};

/// One incident. Plain data of fixed size. Names are OIDs here: who reads them resolves them; text
/// is in the encoding of whoever wrote it.
struct Incident {
    int64 id; // counts from 1; 0 in a place that has none
    TimestampTz began;
    TimestampTz last_seen;
    TimestampTz ended; // 0 while it is open
    core::IncidentEnd end;
    int64 part_of; // the other incident, where it became part of one; else 0

    // The root. What changes is as it was at the peak.
    core::TransactionKey root;
    Oid database;
    Oid role;
    int backend_type;              // a BackendType, or -1
    int state;                     // a BackendState, or -1
    char worker_type[NAMEDATALEN]; // of a background worker
    char application[NAMEDATALEN];
    char gid[GIDSIZE];
    char query[512];

    // The statements of its transaction, as far as they are kept (pg_lockguard.track_statements).
    uint16 statement_count;
    uint32 first_to_touch; // of them, the number of the one that touched the relation of `lock`
                           // first; 0 where that is not known
    TrackedStatement statements[kMostTrackedStatements]; // oldest first

    // The lock between the root and the one that it has kept waiting longest, at the peak.
    bool lock_known; // else it was a safe snapshot
    LOCKTAG lock;
    uint8 mode_held;
    uint8 mode_wanted;

    uint32 waiters;  // at the peak
    uint32 sessions; // that have waited, each once
    int64 time_waited;
    int64 longest;

    // The picture at the peak.
    uint16 node_count;
    uint16 edge_count;
    uint16 lock_count;
    uint16 text_bytes;
    IncidentNode nodes[kIncidentPicture.nodes];
    IncidentEdge edges[kIncidentPicture.edges];
    LOCKTAG locks[kIncidentLocks];
    char text[kIncidentTextBytes]; // begins with an empty string
};

/// Makes room for one and puts it there. Returns its place, or -1 where all places have open
/// incidents.
int store_new_incident(const Incident& incident);

/// Replaces what is in the place.
void store_incident(int place, const Incident& incident);

/// Replaces its numbers alone: last_seen, sessions, time_waited, longest, and the end.
void update_incident(int place, const Incident& incident);

/// Copies the one in that place; false where there is none. 0 <= place < incident_places().
bool read_incident(int place, Incident* incident);
int incident_places();

/// The places of all incidents, by id, ascending. Allocated in the current memory context.
struct IncidentPlace {
    int64 id;
    int place;
};
std::span<const IncidentPlace> recorded_incidents();

/// The number given last.
int64 last_incident_id();

extern const SharedPart kIncidentRingPart;

// ---- For shmem/record_file, in the postmaster, while nobody else is there: without the lock.

Incident* incident_at(int place);
void restore_incident(const Incident& incident);
int64 last_incident_number();
void set_last_incident_number(int64 id);

} // namespace lockguard::pg
