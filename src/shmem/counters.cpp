#include "shmem/counters.h"

namespace lockguard::pg {

namespace {

constexpr const char* kLockName = "pg_lockguard";

/// Those of one PGPROC, on cache lines of their own.
struct alignas(PG_CACHE_LINE_SIZE) Shard {
    pg_atomic_uint64 counters[kCounters]; // written by the PGPROC's process alone
};

struct SharedStatistics {
    pg_atomic_uint64 longest[kLongests];
    uint64 baseline[kCounters]; // the lock guards it and reset_at
    TimestampTz reset_at;
};

/// Process-local: where this process finds the shared parts.
struct {
    SharedStatistics* shared; // null where not preloaded
    SlotsByProc<Shard> shards;
    LWLock* lock;
} state;

Size shared_size() {
    return sizeof(SharedStatistics);
}

Size shards_size() {
    // Shared memory is aligned to cache lines, but that is nowhere promised.
    return add_size(SlotsByProc<Shard>::size(), alignof(Shard));
}

void attach_shared(void* memory, bool is_new) {
    state.shared = static_cast<SharedStatistics*>(memory);
    state.lock = &GetNamedLWLockTranche(kLockName)->lock;
    if (is_new) {
        for (pg_atomic_uint64& longest : state.shared->longest)
            pg_atomic_init_u64(&longest, 0);
        memset(state.shared->baseline, 0, sizeof(state.shared->baseline));
        state.shared->reset_at = GetCurrentTimestamp();
    }
}

void attach_shards(void* memory, bool is_new) {
    state.shards.slots = reinterpret_cast<Shard*>(TYPEALIGN(alignof(Shard), memory));
    for (int i = 0; i < MaxBackends && is_new; i++) {
        for (pg_atomic_uint64& counter : state.shards.slots[i].counters)
            pg_atomic_init_u64(&counter, 0);
    }
}

uint64 sum_of(int counter) {
    uint64 sum = 0;
    for (int i = 0; i < MaxBackends; i++)
        sum += pg_atomic_read_u64(&state.shards.slots[i].counters[counter]);
    return sum;
}

} // namespace

constinit const SharedPart kStatisticsPart = {"pg_lockguard statistics", shared_size, attach_shared,
                                              kLockName};
constinit const SharedPart kCountersPart = {"pg_lockguard counters", shards_size, attach_shards};

void count(Counter counter, uint64 n) {
    Shard* shard = state.shards.own();
    if (shard == nullptr)
        return; // also in an auxiliary process
    // Nobody else writes it, so it needs no locked instruction; readers see it whole.
    pg_atomic_uint64* own = &shard->counters[static_cast<int>(counter)];
    pg_atomic_write_u64(own, pg_atomic_read_u64(own) + n);
}

void note_longest(Longest what, int64 duration) {
    if (state.shared == nullptr || duration <= 0)
        return;
    pg_atomic_uint64* longest = &state.shared->longest[static_cast<int>(what)];
    auto wanted = static_cast<uint64>(duration);
    uint64 seen = pg_atomic_read_u64(longest);
    while (seen < wanted && !pg_atomic_compare_exchange_u64(longest, &seen, wanted)) {
    }
}

Statistics read_statistics() {
    Assert(state.shared != nullptr);
    Statistics result;
    LWLockAcquire(state.lock, LW_SHARED);
    for (int i = 0; i < kCounters; i++)
        result.counters[i] = sum_of(i) - state.shared->baseline[i];
    for (int i = 0; i < kLongests; i++)
        result.longest[i] = static_cast<int64>(pg_atomic_read_u64(&state.shared->longest[i]));
    result.reset_at = state.shared->reset_at;
    LWLockRelease(state.lock);
    return result;
}

void reset_statistics() {
    Assert(state.shared != nullptr);
    TimestampTz now = GetCurrentTimestamp();
    LWLockAcquire(state.lock, LW_EXCLUSIVE);
    for (int i = 0; i < kCounters; i++)
        state.shared->baseline[i] = sum_of(i);
    for (pg_atomic_uint64& longest : state.shared->longest)
        pg_atomic_write_u64(&longest, 0);
    state.shared->reset_at = now;
    LWLockRelease(state.lock);
}

} // namespace lockguard::pg
