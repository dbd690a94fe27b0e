// Accumulated waits (pg_stat_lockguard_waits): a table in shared memory of pg_lockguard.waits_max
// entries. The worker alone adds.
//
// The LWLock "pg_lockguard waits" guards all of it. Where there is no room for a new key, the entry
// with the fewest waits makes room, among those the one that was not seen for longest.
#pragma once

#include "core/wait_account.h"

#include "boundary/compat.h"
#include "shmem/segment.h"

namespace lockguard::pg {

struct WaitEntry {
    core::WaitKey key;
    int64 waits; // 0 in a place that has none
    int64 time;  // µs
    int64 longest;
    TimestampTz seen_at;
};

/// Adds them up. Returns how many entries made room.
int add_waits(std::span<const core::WaitAddition> additions, TimestampTz now);

/// All of them, in no order, and since when they have been added up. Allocated in the current
/// memory context.
std::span<const WaitEntry> read_waits(TimestampTz* reset_at);

void reset_waits();

extern const SharedPart kWaitTablePart;

// ---- For shmem/record_file, in the postmaster, while nobody else is there: without the lock.

int wait_places();
bool is_used_wait_place(int place);
WaitEntry* wait_entry_at(int place);
void restore_wait(const WaitEntry& entry);
TimestampTz waits_reset_at();
void set_waits_reset_at(TimestampTz at);

} // namespace lockguard::pg
