#include "pg/event_ring.h"

#include "core/event_text.h"
#include "pg/backend_status.h"
#include "pg/bridge.h"
#include "pg/object_names.h"
#include "pg/settings.h"
#include "pg/statistics.h"

namespace lockguard::pg {

namespace {

/// One place of the ring. The word is twice the event's number where the event is whole, and 1 more
/// while it is being written; 0 where there has been none.
struct Place {
    pg_atomic_uint64 word;
    Event event;
};

struct Ring {
    pg_atomic_uint64 newest; // the latest number given out
    Place places[FLEXIBLE_ARRAY_MEMBER];
};

/// Process-local: where this process finds the ring.
struct {
    Ring* ring;   // null where not preloaded
    int64 places; // never changes
} state;

// Somebody may write to a place again and again only once in a round of the whole ring.
constexpr int kReadAttempts = 10;

Size ring_size() {
    return add_size(offsetof(Ring, places),
                    mul_size(sizeof(Place), static_cast<Size>(settings.events_max)));
}

Place* place_of(int64 id) {
    return &state.ring->places[id % state.places];
}

/// Makes the place this event's own, for writing. False where somebody else writes there, or a
/// newer event is there already.
bool claim(Place* place, int64 id) {
    uint64 word = pg_atomic_read_u64(&place->word);
    auto wanted = static_cast<uint64>(id) * 2;
    while (word % 2 == 0 && word < wanted) {
        if (pg_atomic_compare_exchange_u64(&place->word, &word, wanted + 1))
            return true;
    }
    return false;
}

void put_into_ring(Event* event) {
    if (state.ring == nullptr)
        return;
    event->id = static_cast<int64>(pg_atomic_fetch_add_u64(&state.ring->newest, 1)) + 1;
    Place* place = place_of(event->id);
    if (!claim(place, event->id)) {
        count(Counter::events_lost);
        return;
    }
    place->event = *event;
    pg_write_barrier();
    pg_atomic_write_u64(&place->word, static_cast<uint64>(event->id) * 2);
}

/// Something was done to a session, would have been done, or was not allowed any more.
bool is_action(EventKind kind) {
    switch (kind) {
    case EventKind::ddl_blocker_terminated:
    case EventKind::blocker_logged:
    case EventKind::blocker_terminated:
    case EventKind::fuse_blown:
        return true;
    default:
        return false;
    }
}

bool is_to_be_logged(EventKind kind) {
    switch (settings.logged_events()) {
    case LoggedEvents::none:
        return false;
    case LoggedEvents::actions:
        return is_action(kind);
    case LoggedEvents::all:
        return true;
    }
    return false;
}

/// For the server log alone: a client may have asked for messages of its own, and must not read
/// about other sessions.
void log_event(const Event& event, const EventNames& names) {
    core::EventLine line = {};
    line.kind = event_kind_name(event.kind);
    line.id = event.id;
    line.pid = event.pid;
    line.database = names.database;
    line.role = names.role;
    line.application = event.application;
    line.command = event.command;
    char relation[64];
    if (event.relation_known && names.relation.empty()) {
        snprintf(relation, sizeof(relation), "relation %u of database %u", event.relation,
                 event.relation_database);
        line.relation = relation;
    } else {
        line.relation = names.relation;
    }
    if (event.lock_mode != NoLock)
        line.lock_mode = GetLockmodeName(DEFAULT_LOCKMETHOD, event.lock_mode);
    line.waited = event.waited;
    line.stall = event.stall;
    line.attempts = event.attempts;
    line.blocker_pid = event.has_blocker ? event.blocker_pid : -1;
    line.blocker_role = names.blocker_role;
    line.blocker_application = event.blocker_application;
    const char* blocker_state = event.blocker_state < 0
                                    ? nullptr
                                    : state_name(static_cast<BackendState>(event.blocker_state));
    if (blocker_state != nullptr)
        line.blocker_state = blocker_state;
    line.blocker_idle = event.blocker_idle;
    line.reason = event.reason;

    CoreFailure failure;
    std::string_view text = try_core(
        CurrentMemoryContext,
        [&line](std::pmr::memory_resource& memory) { return core::event_log_line(line, memory); },
        &failure);
    if (!failure.failed)
        ereport(LOG_SERVER_ONLY, (errmsg("pg_lockguard event: %s", text.data()), errhidestmt(true),
                                  errhidecontext(true)));
}

/// Who is in the way, and this statement below them. It is read in every database, so that what is
/// locked has no name in it.
std::string_view draw_culprits(const DdlEvent& ddl) {
    core::TreeLabel statement = {};
    statement.application = ddl.command;
    if (ddl.lock_known) {
        statement.wants = GetLockmodeName(ddl.tag.locktag_lockmethodid, ddl.mode);
        statement.object = locked_object_text(ddl.tag, {});
    }
    statement.waited = ddl.waited;
    return call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::culprit_tree_text(ddl.culprits, MyProcPid, statement,
                                       sizeof(Event::lock_tree) - 1, memory);
    });
}

} // namespace

const char* event_kind_name(EventKind kind) {
    switch (kind) {
    case EventKind::ddl_waited:
        return "ddl_waited";
    case EventKind::ddl_acquired:
        return "ddl_acquired";
    case EventKind::ddl_timeout:
        return "ddl_timeout";
    case EventKind::ddl_deadlock:
        return "ddl_deadlock";
    case EventKind::ddl_blocker_terminated:
        return "ddl_blocker_terminated";
    case EventKind::blocker_logged:
        return "blocker_logged";
    case EventKind::blocker_resolved:
        return "blocker_resolved";
    case EventKind::blocker_terminated:
        return "blocker_terminated";
    case EventKind::blocker_spared:
        return "blocker_spared";
    case EventKind::fuse_blown:
        return "fuse_blown";
    }
    return "";
}

void new_event(EventKind kind, Event* event) {
    // Also the room behind short strings: it goes into shared memory.
    memset(static_cast<void*>(event), 0, sizeof(*event));
    event->kind = kind;
    event->waited = -1;
    event->stall = -1;
    event->attempts = -1;
    event->blocker_state = -1;
    event->blocker_idle = -1;
}

void set_event_blocker(Event* event, int procno, int pid) {
    event->has_blocker = true;
    event->blocker_pid = pid;
    BackendStatus status;
    if (pid == 0 || !read_backend_status({procno, pid}, &status))
        return;
    event->blocker_role = status.role;
    set_event_text(event->blocker_application, status.application_name);
    event->blocker_state = status.state;
    if (is_idle_in_transaction(status.state) && status.state_start != 0)
        event->blocker_idle = Max(GetCurrentTimestamp() - status.state_start, 0);
    set_event_text(event->blocker_query, status.query);
}

void record_event(Event* event, const EventNames& names) {
    event->at = GetCurrentTimestamp();
    put_into_ring(event);
    if (is_to_be_logged(event->kind))
        log_event(*event, names);
}

void record_ddl_event(const DdlEvent& ddl, const char* relation) {
    Event event;
    new_event(ddl.kind, &event);
    event.pid = MyProcPid;
    event.role = MyProc->roleId;
    event.database = MyDatabaseId;
    set_event_text(event.application, application_name == nullptr ? "" : application_name);
    set_event_text(event.command, ddl.command);
    if (ddl.lock_known) {
        event.lock_mode = ddl.mode;
        if (ddl.tag.locktag_type == LOCKTAG_RELATION) {
            event.relation_known = true;
            event.relation_database = ddl.tag.locktag_field1;
            event.relation = ddl.tag.locktag_field2;
        }
    }
    event.waited = ddl.waited;
    event.stall = ddl.stall;
    event.attempts = ddl.attempts;
    if (ddl.reason != nullptr)
        set_event_text(event.reason, ddl.reason);
    if (!ddl.culprits.empty()) {
        const core::Culprit& first = ddl.culprits.front();
        const PGPROC* proc = first.pid == 0 ? nullptr : BackendPidGetProc(first.pid);
        if (proc != nullptr) {
            set_event_blocker(&event, compat::procno_of(proc), first.pid);
        } else {
            event.has_blocker = true;
            event.blocker_pid = first.pid;
            set_event_text(event.blocker_application, first.application);
        }
        set_event_text(event.lock_tree, draw_culprits(ddl));
    }
    EventNames names = {};
    if (relation != nullptr)
        names.relation = relation;
    record_event(&event, names);
}

EventRange recorded_events() {
    if (state.ring == nullptr)
        return {1, 0};
    auto newest = static_cast<int64>(pg_atomic_read_u64(&state.ring->newest));
    return {Max(newest - state.places + 1, 1), newest};
}

bool read_event(int64 id, Event* event) {
    Place* place = place_of(id);
    for (int attempt = 0; attempt < kReadAttempts; attempt++) {
        uint64 before = pg_atomic_read_u64(&place->word);
        if (before != static_cast<uint64>(id) * 2)
            return false;
        pg_read_barrier();
        *event = place->event;
        pg_read_barrier();
        if (pg_atomic_read_u64(&place->word) == before)
            return true;
    }
    return false;
}

void request_event_ring() {
    RequestAddinShmemSpace(ring_size());
}

void start_up_event_ring() {
    bool found;
    auto* ring = static_cast<Ring*>(ShmemInitStruct("pg_lockguard events", ring_size(), &found));
    if (!found) {
        pg_atomic_init_u64(&ring->newest, 0);
        for (int i = 0; i < settings.events_max; i++)
            pg_atomic_init_u64(&ring->places[i].word, 0);
    }
    state.ring = ring;
    state.places = settings.events_max;
}

} // namespace lockguard::pg
