#include "shmem/wait_table.h"

#include "boundary/memory.h"
#include "boundary/settings.h"

extern "C" {
#include "common/hashfn.h"
}

namespace lockguard::pg {

namespace {

constexpr const char* kLockName = "pg_lockguard waits";
constexpr int kNoPlace = -1;

/// An entry in the chain of its bucket.
struct Place {
    WaitEntry entry;
    int next; // kNoPlace at the end
};

struct Table {
    TimestampTz reset_at;
    int used; // places that have an entry: the first so many
    Place places[FLEXIBLE_ARRAY_MEMBER];
};

/// Process-local: where this process finds the table, and the first place of each bucket, of which
/// there are as many as places.
struct {
    Table* table; // null where not preloaded
    int* buckets;
    int places; // never changes
    LWLock* lock;
} state;

Size places_size() {
    return MAXALIGN(add_size(offsetof(Table, places),
                             mul_size(sizeof(Place), static_cast<Size>(settings.waits_max))));
}

Size table_size() {
    return add_size(places_size(), mul_size(sizeof(int), static_cast<Size>(settings.waits_max)));
}

void empty_table(TimestampTz now) {
    state.table->reset_at = now;
    state.table->used = 0;
    for (int i = 0; i < state.places; i++)
        state.buckets[i] = kNoPlace;
}

void attach(void* memory, bool is_new) {
    state.table = static_cast<Table*>(memory);
    state.buckets = reinterpret_cast<int*>(static_cast<char*>(memory) + places_size());
    state.places = settings.waits_max;
    state.lock = &GetNamedLWLockTranche(kLockName)->lock;
    if (is_new)
        empty_table(GetCurrentTimestamp());
}

int* bucket_of(const core::WaitKey& key) {
    uint32 hash = hash_bytes(reinterpret_cast<const unsigned char*>(&key), sizeof(key));
    return &state.buckets[hash % static_cast<uint32>(state.places)];
}

void link(int place) {
    int* bucket = bucket_of(state.table->places[place].entry.key);
    state.table->places[place].next = *bucket;
    *bucket = place;
}

void unlink(int place) {
    int* link = bucket_of(state.table->places[place].entry.key);
    while (*link != place)
        link = &state.table->places[*link].next;
    *link = state.table->places[place].next;
}

WaitEntry* find(const core::WaitKey& key) {
    for (int i = *bucket_of(key); i != kNoPlace; i = state.table->places[i].next) {
        if (memcmp(&state.table->places[i].entry.key, &key, sizeof(key)) == 0)
            return &state.table->places[i].entry;
    }
    return nullptr;
}

int least_used() {
    int found = 0;
    for (int i = 1; i < state.table->used; i++) {
        const WaitEntry& entry = state.table->places[i].entry;
        const WaitEntry& least = state.table->places[found].entry;
        if (entry.waits < least.waits ||
            (entry.waits == least.waits && entry.seen_at < least.seen_at))
            found = i;
    }
    return found;
}

/// A new entry, in place of another where there is no room.
WaitEntry* make(const core::WaitKey& key, int* evicted) {
    int place = state.table->used;
    if (place < state.places) {
        state.table->used++;
    } else {
        place = least_used();
        unlink(place);
        ++*evicted;
    }
    WaitEntry* entry = &state.table->places[place].entry;
    *entry = {key, 0, 0, 0, 0};
    link(place);
    return entry;
}

} // namespace

constinit const SharedPart kWaitTablePart = {"pg_lockguard waits", table_size, attach, kLockName};

int add_waits(std::span<const core::WaitAddition> additions, TimestampTz now) {
    int evicted = 0;
    LWLockAcquire(state.lock, LW_EXCLUSIVE);
    for (const core::WaitAddition& addition : additions) {
        WaitEntry* entry = find(addition.key);
        // The rest of a wait whose entry has made room, or was reset, is no wait of its own.
        if (entry == nullptr && addition.waits == 0)
            continue;
        if (entry == nullptr)
            entry = make(addition.key, &evicted);
        entry->waits += addition.waits;
        entry->time += addition.time;
        entry->longest = Max(entry->longest, addition.longest);
        entry->seen_at = now;
    }
    LWLockRelease(state.lock);
    return evicted;
}

std::span<const WaitEntry> read_waits(TimestampTz* reset_at) {
    auto* entries = new_array<WaitEntry>(static_cast<std::size_t>(wait_places()));
    std::size_t count = 0;
    LWLockAcquire(state.lock, LW_SHARED);
    *reset_at = state.table->reset_at;
    for (int i = 0; i < state.table->used; i++)
        entries[count++] = state.table->places[i].entry;
    LWLockRelease(state.lock);
    return {entries, count};
}

void reset_waits() {
    TimestampTz now = GetCurrentTimestamp();
    LWLockAcquire(state.lock, LW_EXCLUSIVE);
    empty_table(now);
    LWLockRelease(state.lock);
}

int wait_places() {
    return state.table == nullptr ? 0 : state.places;
}

WaitEntry* wait_entry_at(int place) {
    return &state.table->places[place].entry;
}

bool is_used_wait_place(int place) {
    return place < state.table->used;
}

void restore_wait(const WaitEntry& entry) {
    int evicted = 0;
    if (entry.waits > 0 && find(entry.key) == nullptr)
        *make(entry.key, &evicted) = entry;
}

TimestampTz waits_reset_at() {
    return state.table->reset_at;
}

void set_waits_reset_at(TimestampTz at) {
    state.table->reset_at = at;
}

} // namespace lockguard::pg
