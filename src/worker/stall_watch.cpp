#include "worker/stall_watch.h"

#include <algorithm>

#include "core/kept_waiting.h"

#include "boundary/clock.h"
#include "boundary/memory.h"
#include "locks/kept_waiting_by.h"
#include "locks/lock_snapshot.h"
#include "shmem/guarded_sessions.h"
#include "worker/stall_actions.h"

namespace lockguard::features {

namespace {

using core::kMillisecond;
using core::Microseconds;

/// After the last guarded statement it goes on for a while, so that the next of many need not wake
/// it.
constexpr Microseconds kLinger = 2'000 * kMillisecond;

} // namespace

struct StallWatch {
    StallTrack* tracks;   // MaxBackends of them, by procno
    StallTrack* prepared; // max_prepared_xacts of them, by place
    Microseconds last_guarded;
};

namespace {

StallTrack* track_of(StallWatch* watch, int procno, const pg::GuardedSession& session) {
    StallTrack* track = &watch->tracks[procno];
    if (track->pid != session.pid || track->lxid != session.lxid) {
        forget(track);
        track->pid = session.pid;
        track->lxid = session.lxid;
    }
    return track;
}

// ---- The look

/// The wait in a queue in which the session is itself, or a parallel worker of its; null where it
/// is in none.
const pg::SnapshotWait* own_wait(const pg::StallCase& c) {
    if (c.session.statement == 0 || !c.session.in_attempt)
        return nullptr;
    for (int i = 0; i < c.snapshot->wait_count; i++) {
        const pg::SnapshotWait& wait = c.snapshot->waits[i];
        if (wait.session == c.index && !wait.low_priority && !wait.safe_snapshot)
            return &wait;
    }
    return nullptr;
}

/// When the process began the wait in which it is; 0 where that is not known yet. Not the wait's
/// own: a statement at low priority counts from when it first wanted that lock.
TimestampTz start_of(const pg::SnapshotWait& wait) {
    return static_cast<TimestampTz>(pg_atomic_read_u64(&GetPGProcByNumber(wait.procno)->waitStart));
}

/// In how long a limit that began to count `so_far` ago is over.
Microseconds left_of(Microseconds limit, Microseconds so_far) {
    return std::max<Microseconds>(limit - so_far, 0);
}

/// One session in the picture of all. Returns in how long it must be looked at again at the latest;
/// INT64_MAX where that does not matter.
Microseconds look_at(StallWatch* watch, const pg::LockSnapshot& snapshot, TimestampTz taken_at,
                     int procno, const pg::GuardedSession& session) {
    StallTrack* track = track_of(watch, procno, session);
    const core::SessionIndex index = pg::find_in_snapshot(snapshot, procno, session.lxid);
    if (index >= snapshot.table.sessions.size()) {
        note_clear(track, taken_at);
        return INT64_MAX;
    }
    pg::StallCase c = {&snapshot, taken_at, index, procno, session, {}, core::StallKind::guarded};
    c.kept = pg::find_kept_waiting(snapshot, index, taken_at, record_of(track, session));
    if (c.kept.sessions == 0)
        return INT64_MAX;

    Microseconds next = INT64_MAX;
    const Microseconds max_stall = session.max_stall * kMillisecond;
    if (max_stall > 0) {
        if (c.kept.longest >= max_stall) {
            act_on_stall(&c, track);
            return INT64_MAX;
        }
        next = left_of(max_stall, c.kept.longest);
    }
    const pg::SnapshotWait* own = own_wait(c);
    const TimestampTz wait_start = own == nullptr ? 0 : start_of(*own);
    if (wait_start != 0) {
        const Microseconds limit = session.lock_timeout * kMillisecond;
        const Microseconds by_that =
            std::min<Microseconds>(c.kept.longest, std::max<TimestampTz>(taken_at - wait_start, 0));
        if (by_that >= limit)
            end_wait(c, *own, wait_start, track);
        else
            next = std::min(next, left_of(limit, by_that));
    }
    return next;
}

/// The same of a prepared transaction.
Microseconds look_at_prepared(const pg::LockSnapshot& snapshot, TimestampTz taken_at,
                              const pg::GuardedSession& transaction, StallTrack* track) {
    const core::SessionIndex index = pg::find_prepared_in_snapshot(snapshot, transaction.lxid);
    if (index >= snapshot.table.sessions.size()) {
        note_clear(track, taken_at);
        return INT64_MAX;
    }
    pg::StallCase c = {&snapshot,
                       taken_at,
                       index,
                       snapshot.sessions[index].id.procno,
                       transaction,
                       {},
                       core::StallKind::prepared};
    c.kept = pg::find_kept_waiting(snapshot, index, taken_at, record_of(track, transaction));
    const Microseconds max_stall = transaction.max_stall * kMillisecond;
    if (c.kept.sessions == 0)
        return INT64_MAX;
    if (c.kept.longest < max_stall)
        return left_of(max_stall, c.kept.longest);
    act_on_prepared(c, track);
    return INT64_MAX;
}

/// How often somebody with these limits is to be looked at.
Microseconds period_of(const pg::GuardedSession& session) {
    Microseconds limit = session.max_stall > 0 ? session.max_stall : INT_MAX;
    if (session.in_attempt && session.statement != 0)
        limit = std::min<Microseconds>(limit, session.lock_timeout);
    return core::look_period(limit * kMillisecond);
}

struct Watched {
    int procno;
    pg::GuardedSession session;
};

/// All that are to be watched. Returns their number.
int collect(Watched* watched) {
    int count = 0;
    for (int i = 0; i < MaxBackends; i++) {
        if (pg::read_guarded_session(i, &watched[count].session) &&
            (watched[count].session.max_stall > 0 || watched[count].session.in_attempt))
            watched[count++].procno = i;
    }
    return count;
}

/// Looks at the prepared ones, and frees the places of those that are over. Returns in how long one
/// of them must be looked at again; negative where there are none.
///
/// \param snapshot  null where nobody waits
Microseconds look_at_all_prepared(StallWatch* watch, const pg::LockSnapshot* snapshot,
                                  TimestampTz taken_at) {
    Microseconds next = -1;
    for (int i = 0; i < max_prepared_xacts; i++) {
        StallTrack* track = &watch->prepared[i];
        pg::GuardedSession transaction;
        if (!pg::read_guarded_prepared(i, &transaction))
            continue;
        if (!TransactionIdIsInProgress(transaction.lxid)) {
            pg::forget_guarded_prepared(i, transaction.lxid);
            forget(track);
            continue;
        }
        if (track->lxid != transaction.lxid) {
            forget(track);
            track->lxid = transaction.lxid;
        }
        next = next < 0 ? core::kLongestLookPeriod : next;
        if (snapshot == nullptr)
            note_clear(track, taken_at);
        else
            next = std::min(next, look_at_prepared(*snapshot, taken_at, transaction, track));
    }
    return next;
}

bool any_prepared() {
    pg::GuardedSession transaction;
    for (int i = 0; i < max_prepared_xacts; i++) {
        if (pg::read_guarded_prepared(i, &transaction))
            return true;
    }
    return false;
}

/// Nothing is guarded now. Goes to sleep where that has been so for a while.
Microseconds linger(StallWatch* watch, Watched* room) {
    if (pg::steady_now() - watch->last_guarded < kLinger)
        return core::kLongestLookPeriod;
    pg::set_watcher_asleep(true);
    if (collect(room) == 0 && !any_prepared())
        return -1;
    pg::set_watcher_asleep(false);
    return core::kShortestLookPeriod;
}

} // namespace

StallWatch* start_stall_watch() {
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    auto* watch = pg::new_object<StallWatch>();
    watch->tracks = pg::new_zeroed_array<StallTrack>(static_cast<Size>(MaxBackends));
    watch->prepared = pg::new_zeroed_array<StallTrack>(static_cast<Size>(max_prepared_xacts));
    MemoryContextSwitchTo(caller);
    watch->last_guarded = pg::steady_now() - kLinger;
    pg::announce_guard_watcher();
    return watch;
}

Microseconds watch_stalls(StallWatch* watch, MemoryContext context) {
    MemoryContextSwitchTo(context);
    pg::set_watcher_asleep(false);
    auto* watched = pg::new_array<Watched>(static_cast<Size>(MaxBackends) + 1);
    const int count = collect(watched);
    if (count == 0 && !any_prepared())
        return linger(watch, watched);
    watch->last_guarded = pg::steady_now();

    pg::LockSnapshot snapshot;
    const bool anybody = pg::anybody_waits() && pg::take_lock_snapshot(&snapshot);
    const TimestampTz taken_at = GetCurrentTimestamp();
    Microseconds next = core::kLongestLookPeriod;
    const Microseconds next_prepared =
        look_at_all_prepared(watch, anybody ? &snapshot : nullptr, taken_at);
    if (next_prepared >= 0)
        next = std::min(next, next_prepared);
    for (int i = 0; i < count; i++) {
        const auto& [procno, session] = watched[i];
        next = std::min(next, period_of(session));
        if (anybody)
            next = std::min(next, look_at(watch, snapshot, taken_at, procno, session));
        else
            note_clear(track_of(watch, procno, session), taken_at);
    }
    return std::max(next, kMillisecond);
}

} // namespace lockguard::features
