// The counters behind pg_stat_lockguard.
//
// Each PGPROC has counters of its own in shared memory, written by its process alone and read by
// whoever asks: counting takes no lock, and no cache line is shared. The sum over all is what has
// happened since the server was started; a reset only notes the sum at that time (the baseline), so
// it disturbs nobody who counts.
#pragma once

#include "shmem/segment.h"

namespace lockguard::pg {

/// What is counted. The sum of a *_time is in microseconds.
enum class Counter : int {
    statements,           // guarded statements begun
    statements_immediate, // that never waited for a lock
    statements_waited,    // that did
    wait_time,            // of statements: for locks, in or out of a queue
    bursts,               // times that a statement stood in a queue while others could wait behind
    stall_time,           // of bursts: how long others could be kept waiting
    timeouts_lock,        // statements ended by lock_timeout or ddl_lock_timeout
    timeouts_total,       // by ddl_max_wait
    deadlocks,            // seen by guarded statements
    ddl_terminations,     // sessions ended by a guarded statement (ddl_on_timeout = terminate)

    terminations,               // sessions ended by the worker
    rehearsals,                 // that would have been
    rehearsals_needless,        // of these: gone on or away by themselves
    cancellations,              // statements cancelled by the worker
    cancel_rehearsals,          // that would have been
    cancel_rehearsals_needless, // of these: over by themselves
    cancels_in_vain,            // of the cancelled: their session still had the lock
    spared_prepared,            // from here in the order of core::SpareReason, without "none"
    spared_replication,
    spared_background,
    spared_superuser,
    spared_protected,
    spared_role,
    spared_database,
    spared_application,
    spared_snapshot,
    spared_stalled,
    spared_committing,
    spared_no_client,
    spared_changed, // had changed in the very moment
    fuses_blown,

    stall_cancels,      // statements cancelled by ddl_max_stall
    stall_ended_waits,  // of guarded statements, for locks that turned up inside
    stall_terminations, // sessions ended by ddl_max_stall
    stall_spared,       // left alone, though they kept others waiting for longer

    looks,
    errors, // of the worker
    events_lost,
    waits_evicted, // entries of pg_stat_lockguard_waits that made room
};
inline constexpr int kCounters = static_cast<int>(Counter::waits_evicted) + 1;

/// Adds n. Does nothing without shared memory or in a process without a PGPROC of its own. Never
/// ereports, takes no lock.
void count(Counter counter, uint64 n = 1);

/// The longest of its kind: how long one statement waited, or stalled others at one time.
enum class Longest : int { wait, stall };
inline constexpr int kLongests = 2;

/// Keeps the longest, in microseconds. For contended paths: it writes to a word that all processes
/// share, but only where there is a new longest.
void note_longest(Longest what, int64 duration);

struct Statistics {
    uint64 counters[kCounters];
    int64 longest[kLongests];
    TimestampTz reset_at;
};

/// Sums up. Takes the lock "pg_lockguard", shared. Needs the shared memory.
Statistics read_statistics();

/// Starts anew. Takes the lock "pg_lockguard", exclusive. Needs the shared memory.
void reset_statistics();

extern const SharedPart kStatisticsPart;
extern const SharedPart kCountersPart;

} // namespace lockguard::pg
