#include "worker/incident_watch.h"

#include "core/incident_end.h"
#include "core/incident_tracker.h"
#include "core/words/incidents.h"

#include <algorithm>
#include <ctime>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/memory.h"
#include "boundary/settings.h"
#include "locks/lock_holders.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"
#include "shmem/failure_notes.h"
#include "shmem/incident_ring.h"
#include "worker/incident_capture.h"
#include "worker/wait_sampling.h"

namespace lockguard::features {

namespace {

constexpr core::Microseconds kShortestGap = 100 * core::kMillisecond;
constexpr core::Microseconds kProcessorShare = 500; // one part in so many
constexpr std::size_t kMostRoots = 100;

/// What the one that has waited longest for a root itself wanted, at the latest look.
struct LastWait {
    bool known;
    LOCKTAG tag;
    LOCKMODE mode;
};

} // namespace

/// The state between two looks. Each look makes a new one, in the other of two contexts, so that it
/// is whole whatever happens.
struct IncidentWatch {
    MemoryContext contexts[2];
    int current;
    core::IncidentState state;
    std::span<const core::OpenWait> waits;
    core::Timestamp next_look; // by the steady clock
    core::Microseconds cost;   // of a processor, from one look to the next, on average
    core::Microseconds spent;  // of a processor, when the latest look began; 0: nothing to look at
    pg::Incident* incident;    // room for one
    LastWait* last_waits;      // by place in the ring
};

namespace {

core::Microseconds processor_time() {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<core::Microseconds>(time.tv_sec) * 1000000 + time.tv_nsec / 1000;
}

core::IncidentLimits limits() {
    std::size_t half = static_cast<std::size_t>(pg::incident_places()) / 2;
    return {pg::settings.incident_min_wait * core::kMillisecond, std::min(half, kMostRoots)};
}

// ---- The record

/// The numbers that each look changes.
void set_numbers(const core::TrackedRoot& root, pg::Incident* incident) {
    incident->id = root.id;
    incident->began = root.began;
    incident->last_seen = root.seen_at;
    incident->sessions = root.sessions;
    incident->time_waited = root.time_waited;
    incident->longest = root.longest;
}

void record(IncidentWatch* watch, const pg::IncidentScene& scene, core::TrackedRoot* root) {
    pg::Incident* incident = watch->incident;
    memset(static_cast<void*>(incident), 0, sizeof(*incident));
    set_numbers(*root, incident);
    if (root->new_peak || root->place < 0) {
        pg::capture_incident(scene, root->session, incident);
        incident->waiters = root->peak;
        if (root->place >= 0)
            pg::store_incident(root->place, *incident);
        else
            root->place = pg::store_new_incident(*incident);
    } else {
        pg::update_incident(root->place, *incident);
    }
    if (root->place < 0)
        return; // all places have open incidents: it is followed, and may get one later
    core::LockMode held;
    const pg::SnapshotWait* wait = pg::wait_for_root(scene, root->session, &held);
    LastWait* last = &watch->last_waits[root->place];
    last->known = wait != nullptr && !wait->safe_snapshot;
    if (last->known) {
        last->tag = wait->tag;
        last->mode = wait->mode;
    }
}

// ---- How it ended

/// What the failures of those who waited at the latest look that saw the root say.
void read_waiters_notes(const core::IncidentState& state, const core::TrackedRoot& root,
                        core::RootEvidence* evidence) {
    evidence->waiters_noted = root.waiter_count > 0;
    for (const core::TrackedWaiter& waiter : state.waiters_of(root)) {
        if (!waiter.waiting)
            continue;
        pg::FailureNoteRead note = pg::read_failure_note(waiter.procno, waiter.pid);
        if (note.note == core::FailureNote::none || note.at < root.seen_before) {
            evidence->waiters_noted = false;
            continue;
        }
        // Who waited for the root itself can have closed a ring through it alone.
        if (note.note == core::FailureNote::deadlock && (root.cycle || waiter.direct))
            evidence->ring_noted = true;
    }
}

/// Does the root still hold what the last one waited for?
bool still_holds(const core::TrackedRoot& root, const LastWait& last, bool transaction_over) {
    if (!last.known)
        return !transaction_over && root.root.pid != 0;
    // What a transaction holds it does not outlive: what is held now has been taken anew.
    bool of_session =
        last.tag.locktag_type == LOCKTAG_ADVISORY || last.tag.locktag_type == LOCKTAG_USERLOCK;
    if (transaction_over && !of_session)
        return false;
    for (const pg::LockHolder& holder : pg::find_lock_holders(last.tag, last.mode, -1)) {
        bool same =
            root.root.pid == 0
                ? holder.session.pid == 0 && holder.prepared_xid == root.root.lxid
                : holder.session.pid == root.root.pid && holder.session.procno == root.root.procno;
        if (same)
            return true;
    }
    return false;
}

core::RootEvidence gather_evidence(const IncidentWatch& watch, const core::IncidentState& state,
                                   const core::TrackedRoot& root) {
    core::RootEvidence evidence = {};
    evidence.notes_complete = pg::compat::server_log_level(B_BACKEND) < FATAL; // a client's session
    if (root.root.pid != 0) {
        Assert(root.root.procno >= 0 && root.root.procno < pg::compat::count_of_procs());
        const PGPROC* proc = GetPGProcByNumber(root.root.procno);
        evidence.session_gone = proc->pid != root.root.pid;
        evidence.transaction_over =
            evidence.session_gone || pg::compat::lxid_of(proc) != root.root.lxid;
        pg::FailureNoteRead note = pg::read_failure_note(root.root.procno, root.root.pid);
        bool about_it =
            note.lxid == root.root.lxid &&
            (note.at >= root.seen_before || (note.ends_transaction && evidence.transaction_over));
        // What it holds beyond its transactions is free a moment before it has gone.
        bool end_of_session =
            note.session_is_terminated &&
            (evidence.session_gone || root.root.lxid == InvalidLocalTransactionId);
        if (about_it && note.note != core::FailureNote::none)
            evidence.note = note.note;
        else if (end_of_session)
            evidence.note = core::FailureNote::terminated;
    }
    read_waiters_notes(state, root, &evidence);
    evidence.holds = still_holds(root, watch.last_waits[root.place], evidence.transaction_over);
    return evidence;
}

std::string_view text_of(const char* text) {
    return text == nullptr ? std::string_view() : std::string_view(text);
}

/// One line, for the server log alone.
void log_end(const pg::Incident& incident, MemoryContext memory) {
    core::Microseconds lasted = std::max<int64>(incident.ended - incident.began, 0);
    if (pg::settings.log_incidents < 0 || lasted < pg::settings.log_incidents * core::kMillisecond)
        return;
    core::IncidentLine line = {};
    line.id = incident.id;
    line.end = core::incident_end_name(incident.end);
    line.part_of = incident.part_of;
    line.lasted = lasted;
    line.root_pid = incident.root.pid;
    line.gid = incident.gid;
    line.application = incident.application;
    if (incident.state >= 0)
        line.state = text_of(pg::state_name(static_cast<BackendState>(incident.state)));
    line.waiters = incident.waiters;
    line.sessions = incident.sessions;
    line.waited = incident.time_waited;
    line.longest = incident.longest;
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    MemoryContextSwitchTo(memory);
    pg::NameLookup names = pg::open_name_lookup();
    line.database = text_of(pg::database_name(incident.database, names));
    line.role = text_of(pg::role_name(incident.role, names));
    if (incident.lock_known) {
        line.lock = text_of(pg::locked_object_text(incident.lock, names));
        line.mode_held = text_of(incident.mode_held == NoLock
                                     ? nullptr
                                     : GetLockmodeName(DEFAULT_LOCKMETHOD, incident.mode_held));
        line.mode_wanted = GetLockmodeName(DEFAULT_LOCKMETHOD, incident.mode_wanted);
    }
    pg::close_name_lookup(names);
    CommitTransactionCommand();
    MemoryContextSwitchTo(memory);
    pgstat_report_stat(true);
    auto text = pg::call_core(memory, [&line](std::pmr::memory_resource& resource) {
        return core::incident_log_line(line, resource);
    });
    ereport(LOG_SERVER_ONLY, (errmsg("pg_lockguard incident: %s", text.data()), errhidestmt(true),
                              errhidecontext(true)));
}

void close(IncidentWatch* watch, core::TrackedRoot* root, core::IncidentEnd end, int64 part_of,
           TimestampTz at) {
    root->closed = true;
    pg::Incident* incident = watch->incident;
    if (root->place < 0 || !pg::read_incident(root->place, incident) || incident->id != root->id)
        return;
    set_numbers(*root, incident);
    incident->ended = std::max({at, root->seen_at, incident->began}); // the clock may run back
    incident->end = end;
    incident->part_of = part_of;
    pg::update_incident(root->place, *incident);
    watch->last_waits[root->place].known = false;
}

/// Logs the ends of those that have been closed.
void log_ends(IncidentWatch* watch, const core::IncidentState& state, MemoryContext memory) {
    for (const core::TrackedRoot& root : state.roots) {
        if (root.closed && root.place >= 0 && pg::read_incident(root.place, watch->incident) &&
            watch->incident->id == root.id)
            log_end(*watch->incident, memory);
    }
}

/// Finds out what has become of an incident that the look does not see.
void settle(IncidentWatch* watch, core::IncidentState* state, core::TrackedRoot* root) {
    if (root->place < 0) {
        root->closed = true;
        return;
    }
    core::RootEvidence evidence = gather_evidence(*watch, *state, *root);
    core::IncidentEnd end = core::end_of_incident(*root, evidence);
    if (end == core::IncidentEnd::open)
        return;
    int64 part_of = end == core::IncidentEnd::became_part_of ? state->roots[root->joined].id : 0;
    close(watch, root, end, part_of, root->missed_at);
}

// ---- From look to look

/// What was left open by another worker is followed on.
void adopt(IncidentWatch* watch) {
    MemoryContext caller = MemoryContextSwitchTo(watch->contexts[watch->current]);
    auto places = pg::recorded_incidents();
    auto* roots = pg::new_zeroed_array<core::TrackedRoot>(places.size());
    std::size_t count = 0;
    for (const pg::IncidentPlace& place : places) {
        const pg::Incident& incident = *watch->incident;
        if (!pg::read_incident(place.place, watch->incident) || incident.ended != 0)
            continue;
        core::TrackedRoot& root = roots[count++];
        root.root = incident.root;
        root.id = incident.id;
        root.place = place.place;
        root.began = incident.began;
        root.seen_at = root.seen_before = incident.last_seen;
        root.peak = incident.waiters;
        root.sessions = incident.sessions;
        root.time_waited = incident.time_waited;
        root.longest = incident.longest;
        root.session = core::kNotTracked;
        root.joined = core::kNotTracked;
        watch->last_waits[place.place] = {incident.lock_known, incident.lock,
                                          static_cast<LOCKMODE>(incident.mode_wanted)};
    }
    watch->state = {};
    watch->state.roots = {roots, count};
    watch->state.last_id = pg::last_incident_id();
    MemoryContextSwitchTo(caller);
}

core::Microseconds planned_gap(const IncidentWatch& watch, bool anybody) {
    core::Microseconds interval = pg::settings.worker_interval * core::kMillisecond;
    if (!anybody)
        return interval;
    return std::min(interval, std::max(kShortestGap, watch.cost * kProcessorShare));
}

void look(IncidentWatch* watch, MemoryContext memory) {
    pg::IncidentScene scene;
    bool anybody = pg::anybody_waits() && pg::take_incident_scene(&scene);
    if (!anybody) {
        scene = {};
        scene.at = GetCurrentTimestamp();
    }
    int other = 1 - watch->current;
    MemoryContextReset(watch->contexts[other]);
    core::IncidentState state =
        pg::call_core(watch->contexts[other], [&](std::pmr::memory_resource& resource) {
            core::IncidentLook seen = {scene.waits.graph,
                                       scene.rows,
                                       {scene.sessions, scene.waits.graph.sessions.size()},
                                       scene.at};
            return core::follow_incidents(watch->state, seen, limits(), resource);
        });
    for (core::TrackedRoot& root : state.roots) {
        if (root.id != 0 && root.session != core::kNotTracked)
            record(watch, scene, &root);
    }
    for (core::TrackedRoot& root : state.roots) {
        if (root.id != 0 && root.session == core::kNotTracked)
            settle(watch, &state, &root);
    }
    watch->waits = pg::sample_waits(watch->waits, watch->state.looked_at, scene,
                                    planned_gap(*watch, true), watch->contexts[other]);
    watch->state = state;
    watch->current = other;
    log_ends(watch, watch->state, memory);
}

/// Nothing is looked for any more.
void give_up(IncidentWatch* watch, MemoryContext memory) {
    for (core::TrackedRoot& root : watch->state.roots) {
        if (root.id != 0 && !root.closed)
            close(watch, &root, core::IncidentEnd::unknown, 0, GetCurrentTimestamp());
    }
    log_ends(watch, watch->state, memory);
    int64 last_id = watch->state.last_id;
    watch->state = {};
    watch->state.last_id = last_id;
    watch->waits = {};
}

} // namespace

IncidentWatch* start_incident_watch() {
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    auto* watch = pg::new_zeroed_array<IncidentWatch>(1);
    for (MemoryContext& context : watch->contexts)
        context = AllocSetContextCreate(TopMemoryContext, "pg_lockguard incidents",
                                        ALLOCSET_DEFAULT_SIZES);
    watch->incident = pg::new_zeroed_array<pg::Incident>(1);
    watch->last_waits =
        pg::new_zeroed_array<LastWait>(static_cast<std::size_t>(pg::incident_places()));
    MemoryContextSwitchTo(caller);
    adopt(watch);
    return watch;
}

core::Timestamp watch_incidents(IncidentWatch* watch, MemoryContext memory) {
    if (pg::settings.incident_min_wait < 0) {
        give_up(watch, memory);
        watch->next_look = 0;
        watch->spent = 0;
        return core::kUnknownTime;
    }
    core::Timestamp now = pg::steady_now();
    if (now < watch->next_look)
        return watch->next_look;
    MemoryContext caller = MemoryContextSwitchTo(memory);
    // Should it fail, it is not tried again at once.
    watch->next_look = now + planned_gap(*watch, false);
    if (pg::anybody_waits() || !watch->state.roots.empty() || !watch->waits.empty()) {
        // With all that the process has done since: waking up costs about as much as looking.
        core::Microseconds spent = processor_time();
        if (watch->spent != 0)
            watch->cost += (spent - watch->spent - watch->cost) / 4;
        watch->spent = spent;
        look(watch, memory);
        bool anybody = !watch->state.roots.empty() || !watch->waits.empty();
        watch->next_look = now + planned_gap(*watch, anybody);
    } else {
        watch->state.looked_at = GetCurrentTimestamp();
        watch->spent = 0;
    }
    MemoryContextSwitchTo(caller);
    return watch->next_look;
}

} // namespace lockguard::features
