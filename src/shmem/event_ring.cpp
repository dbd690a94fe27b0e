#include "shmem/event_ring.h"

#include "boundary/settings.h"
#include "shmem/counters.h"

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

void attach(void* memory, bool is_new) {
    state.ring = static_cast<Ring*>(memory);
    state.places = settings.events_max;
    if (is_new) {
        pg_atomic_init_u64(&state.ring->newest, 0);
        for (int64 i = 0; i < state.places; i++)
            pg_atomic_init_u64(&state.ring->places[i].word, 0);
    }
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

} // namespace

constinit const SharedPart event_ring_part = {"pg_lockguard events", ring_size, attach};

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
    case EventKind::ddl_decided:
        return "ddl_decided";
    case EventKind::blocker_logged:
        return "blocker_logged";
    case EventKind::blocker_resolved:
        return "blocker_resolved";
    case EventKind::blocker_terminated:
        return "blocker_terminated";
    case EventKind::blocker_spared:
        return "blocker_spared";
    case EventKind::blocker_cancel_logged:
        return "blocker_cancel_logged";
    case EventKind::blocker_cancelled:
        return "blocker_cancelled";
    case EventKind::blocker_not_freed:
        return "blocker_not_freed";
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

void store_event(Event* event) {
    event->at = GetCurrentTimestamp();
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

EventRange recorded_events() {
    if (state.ring == nullptr)
        return {1, 0};
    auto newest = static_cast<int64>(pg_atomic_read_u64(&state.ring->newest));
    return {Max(newest - state.places + 1, 1), newest};
}

bool read_event(int64 id, Event* event) {
    Assert(state.ring != nullptr && id > 0);
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

void restore_event(const Event& event) {
    if (event.id <= 0)
        return;
    Place* place = place_of(event.id);
    place->event = event;
    pg_atomic_write_u64(&place->word, static_cast<uint64>(event.id) * 2);
    pg_atomic_write_u64(&state.ring->newest, static_cast<uint64>(event.id));
}

} // namespace lockguard::pg
