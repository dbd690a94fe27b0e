#include "worker/stall_watch.h"

#include "core/blocker_policy.h"

#include <algorithm>

#include "boundary/clock.h"
#include "boundary/memory.h"
#include "boundary/settings.h"
#include "locks/kept_waiting_by.h"
#include "locks/lock_snapshot.h"
#include "sessions/backend_status.h"
#include "sessions/guard_orders.h"
#include "sessions/statement_cancel.h"
#include "shmem/counters.h"
#include "shmem/guarded_sessions.h"
#include "shmem/worker_state.h"
#include "worker/last_check.h"
#include "worker/stall_case.h"

namespace lockguard::features {

namespace {

using core::kMillisecond;
using core::Microseconds;

/// Glances come a few times in the length of a limit, within these bounds.
constexpr Microseconds kShortestPeriod = 10 * kMillisecond;
constexpr Microseconds kLongestPeriod = 100 * kMillisecond;
constexpr int kGlancesInLimit = 4;

/// After the last guarded statement it goes on for a while, so that the next of many need not wake
/// it.
constexpr Microseconds kLinger = 2'000 * kMillisecond;

/// Who does not end what he does is asked again after this time, then after twice that, and so on.
constexpr Microseconds kFirstRepeat = 1'000 * kMillisecond;
constexpr Microseconds kLongestRepeat = 30'000 * kMillisecond;

/// What was done about a session.
enum class Deed : uint8 {
    none,
    ended_wait,      // of the wait that began then
    cancelled,       // the guarded statement of this number
    cancelled_later, // the statement that began then
    dealt_with_idle, // idle since then
    told_of_fuse,    // likewise
    spared_later,    // in this transaction, active
};

/// A session that is watched.
struct Track {
    int pid;
    LocalTransactionId lxid;
    TimestampTz clear_at;     // the latest look at which nobody was kept waiting; 0: none
    pg::BehindRecord* record; // null while nobody is

    Deed deed;       // the latest
    int64 subject;   // what it was done about
    int times;       // how often
    Microseconds at; // by the steady clock
};

} // namespace

struct StallWatch {
    Track* tracks; // MaxBackends of them, by procno
    Microseconds last_guarded;
};

namespace {

// ---- What is remembered

void forget(Track* track) {
    if (track->record != nullptr)
        pfree(track->record);
    *track = {};
}

Track* track_of(StallWatch* watch, int procno, const pg::GuardedSession& session) {
    Track* track = &watch->tracks[procno];
    if (track->pid != session.pid || track->lxid != session.lxid) {
        forget(track);
        track->pid = session.pid;
        track->lxid = session.lxid;
    }
    return track;
}

void note_clear(Track* track, TimestampTz look) {
    if (track->record != nullptr)
        pfree(track->record);
    track->record = nullptr;
    track->clear_at = look;
}

pg::BehindRecord* record_of(Track* track, const pg::GuardedSession& session) {
    if (track->record == nullptr) {
        track->record = static_cast<pg::BehindRecord*>(
            MemoryContextAlloc(TopMemoryContext, sizeof(pg::BehindRecord)));
        core::start_record(*track->record, std::max(session.since, track->clear_at));
    }
    return track->record;
}

/// Is it time to do that: for the first time, or again?
bool is_due(const Track& track, Deed deed, int64 subject) {
    if (track.deed != deed || track.subject != subject)
        return true;
    Microseconds pause = std::min(kFirstRepeat << std::min(track.times - 1, 10), kLongestRepeat);
    return pg::steady_now() - track.at >= pause;
}

bool is_done(const Track& track, Deed deed, int64 subject) {
    return track.deed == deed && track.subject == subject;
}

void note_deed(Track* track, Deed deed, int64 subject) {
    track->times = is_done(*track, deed, subject) ? track->times + 1 : 1;
    track->deed = deed;
    track->subject = subject;
    track->at = pg::steady_now();
}

// ---- What is done

/// Tells of a statement that was asked to end, and of one that has not done so.
void tell_of_cancel(const pg::StallCase& c, const Track& track) {
    const char* detail = pg::stall_words(c, pg::StallWords::detail);
    if (track.times > 1) {
        ereport(LOG, (errmsg("pg_lockguard: PID %d has not ended its statement yet, and has been "
                             "asked to again",
                             c.session.pid),
                      errdetail_log("%s", detail)));
        return;
    }
    pg::count(pg::Counter::stall_cancels);
    pg::record_stall(c, pg::EventKind::stall_cancelled, detail);
    ereport(LOG, (errmsg("pg_lockguard: cancelled the statement of PID %d", c.session.pid),
                  errdetail_log("%s", detail)));
}

void cancel_guarded(const pg::StallCase& c, Track* track) {
    const int64 subject = c.session.statement;
    if (!is_due(*track, Deed::cancelled, subject) ||
        pg::send_guard_order(c.procno, c.session, pg::GuardOrder::cancel, pg::report_of(c)) !=
            pg::OrderResult::sent)
        return;
    note_deed(track, Deed::cancelled, subject);
    tell_of_cancel(c, *track);
}

/// \param own  the wait that is to end, which began then
void end_wait(const pg::StallCase& c, const pg::SnapshotWait& own, TimestampTz wait_start,
              Track* track) {
    pg::StallReport report = pg::report_of(c);
    report.wait_start = wait_start;
    report.own_tag = own.tag;
    report.own_mode = own.mode;
    const pg::GuardOrder order =
        own.procno == c.procno ? pg::GuardOrder::end_wait : pg::GuardOrder::end_worker_wait;
    if (!is_due(*track, Deed::ended_wait, wait_start) ||
        pg::send_guard_order(c.procno, c.session, order, report) != pg::OrderResult::sent)
        return;
    note_deed(track, Deed::ended_wait, wait_start);
    if (track->times == 1)
        pg::count(pg::Counter::stall_ended_waits);
}

void spare(const pg::StallCase& c, const char* reason) {
    pg::count(pg::Counter::stall_spared);
    pg::record_stall(c, pg::EventKind::stall_spared, reason);
}

/// Something else that the transaction does.
void cancel_later(const pg::StallCase& c, const pg::BackendStateOnly& state, Track* track) {
    if (state.type != B_BACKEND) {
        if (is_done(*track, Deed::spared_later, c.session.lxid))
            return;
        note_deed(track, Deed::spared_later, c.session.lxid);
        spare(c, core::spare_reason_text(core::SpareReason::background_process).data());
        return;
    }
    if (!is_due(*track, Deed::cancelled_later, state.state_start))
        return;
    const pg::StatementIdentity statement = {{c.procno, c.session.pid, c.session.lxid},
                                             state.state_start};
    if (pg::cancel_statement(statement, pg::stall_words(c, pg::StallWords::detail),
                             pg::stall_words(c, pg::StallWords::hint), nullptr, nullptr,
                             core::kStallMessage.data()) != pg::CancelResult::signaled)
        return;
    note_deed(track, Deed::cancelled_later, state.state_start);
    tell_of_cancel(c, *track);
}

void warn_of_idle(const pg::StallCase& c, const char* why_not) {
    spare(c, why_not);
    ereport(WARNING, (errmsg("pg_lockguard: PID %d keeps others waiting, and is left alone: %s",
                             c.session.pid, why_not),
                      errdetail_log("%s", pg::stall_words(c, pg::StallWords::detail))));
}

/// Does the fuse hold? Then that is said once.
bool fuse_holds(const pg::StallCase& c, bool rehearses, int64 subject, Track* track) {
    const auto limit = static_cast<uint32>(pg::settings.max_terminations_per_minute);
    if (core::fuse_allows(pg::worker_fuses(rehearses)->terminations, limit, pg::steady_now()))
        return false;
    if (!is_done(*track, Deed::told_of_fuse, subject)) {
        note_deed(track, Deed::told_of_fuse, subject);
        pg::count(pg::Counter::fuses_blown);
        warn_of_idle(
            c, psprintf("pg_lockguard.max_terminations_per_minute (%u) has been reached", limit));
    }
    return true;
}

/// As the worker does with any blocker that is idle, but without blocker_min_idle and
/// blocker_min_wait: others have waited for long enough.
void deal_with_idle(const pg::StallCase& c, const pg::BackendStateOnly& state, Track* track) {
    const int64 subject = state.state_start;
    if (is_done(*track, Deed::dealt_with_idle, subject))
        return;
    const pg::BlockerAction action = pg::settings.action();
    const bool rehearses = action == pg::BlockerAction::log;
    const char* why_not = action == pg::BlockerAction::off ? "pg_lockguard.blocker_action is off"
                                                           : pg::why_stall_is_spared(c);
    if (why_not != nullptr) {
        note_deed(track, Deed::dealt_with_idle, subject);
        warn_of_idle(c, why_not);
        return;
    }
    if (fuse_holds(c, rehearses, subject, track))
        return;
    const pg::SnapshotWait& wait = pg::awaited_wait(c);
    const pg::BlockerIdentity blocker = {{c.procno, c.session.pid, c.session.lxid},
                                         state.state_start};
    const pg::RequestIdentity request = {wait.procno, c.snapshot->sessions[wait.session].id.pid,
                                         wait.tag, wait.mode, wait.low_priority};
    const char* detail = pg::stall_words(c, pg::StallWords::victim_detail);
    const pg::TerminationResult result = rehearses
                                             ? pg::rehearse_termination(blocker, request)
                                             : pg::terminate_blocker(blocker, request, detail);
    if (result != pg::TerminationResult::signaled)
        return; // it has gone on, or nobody waits any more: the next look sees
    note_deed(track, Deed::dealt_with_idle, subject);
    core::note_termination(pg::worker_fuses(rehearses)->terminations, pg::steady_now());
    if (!rehearses)
        pg::count(pg::Counter::stall_terminations);
    pg::record_stall(c, rehearses ? pg::EventKind::stall_logged : pg::EventKind::stall_terminated,
                     pg::stall_words(c, pg::StallWords::detail));
    ereport(LOG, (errmsg("pg_lockguard: %s PID %d, idle in the transaction of a guarded statement",
                         rehearses ? "would terminate" : "terminated", c.session.pid),
                  errdetail_log("%s", pg::stall_words(c, pg::StallWords::detail))));
}

/// The session has kept others waiting for longer than its limit.
void act(pg::StallCase* c, Track* track) {
    if (c->session.statement != 0) {
        cancel_guarded(*c, track);
        return;
    }
    pg::BackendStateOnly state;
    if (!pg::read_backend_state({c->procno, c->session.pid}, &state))
        return;
    if (pg::is_active(state.state)) {
        c->kind = core::StallKind::later;
        cancel_later(*c, state, track);
    } else if (pg::is_idle_in_transaction(state.state)) {
        c->kind = core::StallKind::idle;
        deal_with_idle(*c, state, track);
    } else if (state.state == STATE_DISABLED &&
               !is_done(*track, Deed::spared_later, c->session.lxid)) {
        c->kind = core::StallKind::later;
        note_deed(track, Deed::spared_later, c->session.lxid);
        warn_of_idle(*c, "whether it is idle is not known (track_activities is off)");
    }
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
    Track* track = track_of(watch, procno, session);
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
            act(&c, track);
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

/// How often somebody with these limits is to be looked at.
Microseconds period_of(const pg::GuardedSession& session) {
    Microseconds limit = session.max_stall > 0 ? session.max_stall : INT_MAX;
    if (session.in_attempt && session.statement != 0)
        limit = std::min<Microseconds>(limit, session.lock_timeout);
    return std::clamp(limit * kMillisecond / kGlancesInLimit, kShortestPeriod, kLongestPeriod);
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

/// Nothing is guarded now. Goes to sleep where that has been so for a while.
Microseconds linger(StallWatch* watch, Watched* room) {
    if (pg::steady_now() - watch->last_guarded < kLinger)
        return kLongestPeriod;
    pg::set_watcher_asleep(true);
    if (collect(room) == 0)
        return -1;
    pg::set_watcher_asleep(false);
    return kShortestPeriod;
}

} // namespace

StallWatch* start_stall_watch() {
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    auto* watch = pg::new_object<StallWatch>();
    watch->tracks = pg::new_zeroed_array<Track>(static_cast<Size>(MaxBackends));
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
    if (count == 0)
        return linger(watch, watched);
    watch->last_guarded = pg::steady_now();

    pg::LockSnapshot snapshot;
    const bool anybody = pg::anybody_waits() && pg::take_lock_snapshot(&snapshot);
    const TimestampTz taken_at = GetCurrentTimestamp();
    Microseconds next = kLongestPeriod;
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
