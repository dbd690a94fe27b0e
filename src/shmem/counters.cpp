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
    Shard* shards;            // shard_count of them, by procno
    int shard_count;
    LWLock* lock;
} state;

Size shards_size(int count) {
    // Shared memory is aligned to cache lines, but that is nowhere promised.
    return add_size(mul_size(sizeof(Shard), count), alignof(Shard));
}

uint64 sum_of(int counter) {
    uint64 sum = 0;
    for (int i = 0; i < state.shard_count; i++)
        sum += pg_atomic_read_u64(&state.shards[i].counters[counter]);
    return sum;
}

} // namespace

void request_statistics(int proc_count) {
    RequestAddinShmemSpace(sizeof(SharedStatistics));
    RequestAddinShmemSpace(shards_size(proc_count));
    RequestNamedLWLockTranche(kLockName, 1);
}

void start_up_statistics(int proc_count) {
    bool found;
    auto* shared = static_cast<SharedStatistics*>(
        ShmemInitStruct("pg_lockguard statistics", sizeof(SharedStatistics), &found));
    if (!found) {
        for (pg_atomic_uint64& longest : shared->longest)
            pg_atomic_init_u64(&longest, 0);
        memset(shared->baseline, 0, sizeof(shared->baseline));
        shared->reset_at = GetCurrentTimestamp();
    }

    void* memory = ShmemInitStruct("pg_lockguard counters", shards_size(proc_count), &found);
    auto* shards = reinterpret_cast<Shard*>(TYPEALIGN(alignof(Shard), memory));
    for (int i = 0; i < proc_count && !found; i++) {
        for (pg_atomic_uint64& counter : shards[i].counters)
            pg_atomic_init_u64(&counter, 0);
    }
    state.shared = shared;
    state.shards = shards;
    state.shard_count = proc_count;
    state.lock = &GetNamedLWLockTranche(kLockName)->lock;
}

void count(Counter counter, uint64 n) {
    if (state.shared == nullptr || MyProc == nullptr)
        return;
    int procno = compat::procno_of(MyProc);
    if (procno >= state.shard_count)
        return; // an auxiliary process
    // Nobody else writes it, so it needs no locked instruction; readers see it whole.
    pg_atomic_uint64* own = &state.shards[procno].counters[static_cast<int>(counter)];
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
