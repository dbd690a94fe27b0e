#include "shmem/incident_ring.h"

#include <algorithm>

#include "boundary/memory.h"
#include "boundary/settings.h"

namespace lockguard::pg {

namespace {

constexpr const char* kLockName = "pg_lockguard incidents";

struct Ring {
    int64 last_id;
    Incident places[FLEXIBLE_ARRAY_MEMBER];
};

/// Process-local: where this process finds the ring.
struct {
    Ring* ring; // null where not preloaded
    int places; // never changes
    LWLock* lock;
} state;

Size ring_size() {
    return add_size(offsetof(Ring, places),
                    mul_size(sizeof(Incident), static_cast<Size>(settings.incidents_max)));
}

void attach(void* memory, bool is_new) {
    state.ring = static_cast<Ring*>(memory);
    state.places = settings.incidents_max;
    state.lock = &GetNamedLWLockTranche(kLockName)->lock;
    if (is_new) {
        state.ring->last_id = 0;
        for (int i = 0; i < state.places; i++)
            state.ring->places[i].id = 0;
    }
}

/// The place that a new incident gets: an unused one, or that of the oldest that has ended. The
/// caller holds the lock, and writes alone; or is the postmaster, before there is anybody else.
int find_room() {
    Assert(!IsUnderPostmaster || LWLockHeldByMeInMode(state.lock, LW_EXCLUSIVE));
    int found = -1;
    for (int i = 0; i < state.places; i++) {
        const Incident& incident = state.ring->places[i];
        if (incident.id == 0)
            return i;
        if (incident.ended != 0 && (found < 0 || incident.id < state.ring->places[found].id))
            found = i;
    }
    return found;
}

} // namespace

constinit const SharedPart kIncidentRingPart = {"pg_lockguard incidents", ring_size, attach,
                                                kLockName};

int store_new_incident(const Incident& incident) {
    LWLockAcquire(state.lock, LW_EXCLUSIVE);
    int place = find_room();
    if (place >= 0)
        state.ring->places[place] = incident;
    state.ring->last_id = Max(state.ring->last_id, incident.id);
    LWLockRelease(state.lock);
    return place;
}

void store_incident(int place, const Incident& incident) {
    Assert(place >= 0 && place < state.places);
    LWLockAcquire(state.lock, LW_EXCLUSIVE);
    state.ring->places[place] = incident;
    LWLockRelease(state.lock);
}

void update_incident(int place, const Incident& incident) {
    Assert(place >= 0 && place < state.places);
    LWLockAcquire(state.lock, LW_EXCLUSIVE);
    Incident& stored = state.ring->places[place];
    if (stored.id == incident.id) {
        stored.began = incident.began;
        stored.last_seen = incident.last_seen;
        stored.sessions = incident.sessions;
        stored.time_waited = incident.time_waited;
        stored.longest = incident.longest;
        stored.ended = incident.ended;
        stored.end = incident.end;
        stored.part_of = incident.part_of;
    }
    LWLockRelease(state.lock);
}

bool read_incident(int place, Incident* incident) {
    LWLockAcquire(state.lock, LW_SHARED);
    *incident = state.ring->places[place];
    LWLockRelease(state.lock);
    return incident->id != 0;
}

int incident_places() {
    return state.ring == nullptr ? 0 : state.places;
}

std::span<const IncidentPlace> recorded_incidents() {
    auto* places = new_array<IncidentPlace>(static_cast<std::size_t>(incident_places()));
    std::size_t count = 0;
    if (state.ring != nullptr) {
        LWLockAcquire(state.lock, LW_SHARED);
        for (int i = 0; i < state.places; i++) {
            if (state.ring->places[i].id != 0)
                places[count++] = {state.ring->places[i].id, i};
        }
        LWLockRelease(state.lock);
    }
    std::sort(places, places + count,
              [](const IncidentPlace& a, const IncidentPlace& b) { return a.id < b.id; });
    return {places, count};
}

int64 last_incident_id() {
    LWLockAcquire(state.lock, LW_SHARED);
    int64 id = state.ring->last_id;
    LWLockRelease(state.lock);
    return id;
}

Incident* incident_at(int place) {
    return &state.ring->places[place];
}

void restore_incident(const Incident& incident) {
    int place = find_room();
    if (incident.id <= 0 || place < 0 || state.ring->places[place].id > incident.id)
        return;
    state.ring->places[place] = incident;
}

int64 last_incident_number() {
    return state.ring->last_id;
}

void set_last_incident_number(int64 id) {
    state.ring->last_id = id;
}

} // namespace lockguard::pg
