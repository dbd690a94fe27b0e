#include "shmem/event_ring.h"

#include <algorithm>

#include "boundary/settings.h"
#include "shmem/counters.h"

extern "C" {
#include "storage/s_lock.h"
}

namespace lockguard::pg {

namespace {

/// One place. The word is 0 where there has been no event; else see word_of().
struct Place {
    pg_atomic_uint64 word;
    Event event;
};

struct Rings {
    pg_atomic_uint64 newest;   // the latest number given out, over both rings
    pg_atomic_uint64 turns[2]; // how many places have been given out: the guard's, the worker's
    Place places[FLEXIBLE_ARRAY_MEMBER];
};

/// Process-local: where this process finds the rings.
struct {
    Rings* rings; // null where not preloaded
    int places;   // of both; never changes
} state;

// Somebody may write to a place again and again only once in a round of the whole ring; renewals
// are the work of one process, statement by statement.
constexpr int kReadAttempts = 100;

// The word of a place: 40 bits for the number of the event, 23 for how often it has been renewed,
// 1 that is set while it is being written.
constexpr int kRenewalBits = 23;
constexpr uint64 kBusy = 1;
constexpr uint64 kMostRenewals = (UINT64CONST(1) << kRenewalBits) - 1;

constexpr uint64 word_of(int64 id, uint64 renewals) {
    return (static_cast<uint64>(id) << (kRenewalBits + 1)) | (renewals << 1);
}
constexpr int64 id_in(uint64 word) {
    return static_cast<int64>(word >> (kRenewalBits + 1));
}
constexpr uint64 renewals_in(uint64 word) {
    return (word >> 1) & kMostRenewals;
}

Size rings_size() {
    return add_size(offsetof(Rings, places),
                    mul_size(sizeof(Place), static_cast<Size>(settings.events_max)));
}

void attach(void* memory, bool is_new) {
    state.rings = static_cast<Rings*>(memory);
    state.places = settings.events_max;
    if (!is_new)
        return;
    pg_atomic_init_u64(&state.rings->newest, 0);
    for (pg_atomic_uint64& turn : state.rings->turns)
        pg_atomic_init_u64(&turn, 0);
    for (int i = 0; i < state.places; i++)
        pg_atomic_init_u64(&state.rings->places[i].word, 0);
}

/// Is it the worker who says so?
bool is_of_worker(EventKind kind) {
    switch (kind) {
    case EventKind::ddl_waited:
    case EventKind::ddl_acquired:
    case EventKind::ddl_timeout:
    case EventKind::ddl_deadlock:
    case EventKind::ddl_blocker_terminated:
    case EventKind::ddl_decided:
        return false;
    case EventKind::blocker_logged:
    case EventKind::blocker_resolved:
    case EventKind::blocker_terminated:
    case EventKind::blocker_spared:
    case EventKind::blocker_cancel_logged:
    case EventKind::blocker_cancelled:
    case EventKind::blocker_not_freed:
    case EventKind::fuse_blown:
    case EventKind::stall_cancelled:
    case EventKind::stall_logged:
    case EventKind::stall_terminated:
    case EventKind::stall_spared:
        return true;
    }
    return true;
}

/// The next place in the ring of that kind: the worker's are the last quarter.
int next_place(EventKind kind) {
    const int of_worker = state.places / 4;
    const int of_guard = state.places - of_worker;
    const bool worker = is_of_worker(kind);
    const uint64 turn = pg_atomic_fetch_add_u64(&state.rings->turns[worker ? 1 : 0], 1);
    return worker ? of_guard + static_cast<int>(turn % static_cast<uint64>(of_worker))
                  : static_cast<int>(turn % static_cast<uint64>(of_guard));
}

/// Makes the place this event's own, for writing. False where somebody else writes there, or a
/// newer event is there already.
bool claim(Place* place, int64 id) {
    uint64 word = pg_atomic_read_u64(&place->word);
    while ((word & kBusy) == 0 && id_in(word) < id) {
        if (pg_atomic_compare_exchange_u64(&place->word, &word, word_of(id, 0) | kBusy))
            return true;
    }
    return false;
}

/// Into a place that has been claimed: the word says afterwards that it is whole.
void fill(Place* place, const Event& event, uint64 word) {
    pg_write_barrier();
    place->event = event;
    pg_write_barrier();
    pg_atomic_write_u64(&place->word, word);
}

} // namespace

constinit const SharedPart kEventRingPart = {"pg_lockguard events", rings_size, attach};

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
    case EventKind::stall_cancelled:
        return "stall_cancelled";
    case EventKind::stall_logged:
        return "stall_logged";
    case EventKind::stall_terminated:
        return "stall_terminated";
    case EventKind::stall_spared:
        return "stall_spared";
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

EventPlace store_event(Event* event) {
    event->at = GetCurrentTimestamp();
    event->last_at = event->at;
    if (state.rings == nullptr)
        return {};
    event->id = static_cast<int64>(pg_atomic_fetch_add_u64(&state.rings->newest, 1)) + 1;
    const int index = next_place(event->kind);
    Place* place = &state.rings->places[index];
    if (!claim(place, event->id)) {
        count(Counter::events_lost);
        return {};
    }
    const uint64 word = word_of(event->id, 0);
    fill(place, *event, word);
    return {event->id, index, word};
}

bool renew_event(EventPlace* place, const Event& event) {
    Assert(place->id == event.id);
    if (place->id == 0 || renewals_in(place->word) == kMostRenewals)
        return false;
    Place* target = &state.rings->places[place->place];
    uint64 word = place->word;
    if (!pg_atomic_compare_exchange_u64(&target->word, &word, word | kBusy))
        return false;
    place->word = word_of(place->id, renewals_in(word) + 1);
    fill(target, event, place->word);
    return true;
}

std::span<const EventPlace> recorded_events() {
    if (state.rings == nullptr)
        return {};
    auto* found = static_cast<EventPlace*>(MemoryContextAllocHuge(
        CurrentMemoryContext, sizeof(EventPlace) * static_cast<Size>(state.places)));
    std::size_t count = 0;
    for (int i = 0; i < state.places; i++) {
        const uint64 word = pg_atomic_read_u64(&state.rings->places[i].word);
        if (id_in(word) != 0)
            found[count++] = {id_in(word), i, word};
    }
    std::sort(found, found + count,
              [](const EventPlace& a, const EventPlace& b) { return a.id < b.id; });
    return {found, count};
}

bool read_event(const EventPlace& wanted, Event* event) {
    Assert(state.rings != nullptr && wanted.id > 0);
    Place* place = &state.rings->places[wanted.place];
    for (int attempt = 0; attempt < kReadAttempts; attempt++) {
        uint64 before = pg_atomic_read_u64(&place->word);
        if (id_in(before) != wanted.id)
            return false;
        if ((before & kBusy) != 0) {
            pg_spin_delay();
            continue;
        }
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
    fill(&state.rings->places[next_place(event.kind)], event, word_of(event.id, 0));
    pg_atomic_write_u64(&state.rings->newest, static_cast<uint64>(event.id));
}

} // namespace lockguard::pg
