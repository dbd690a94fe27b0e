#include "worker/stall_actions.h"

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

/// Who does not end what he does is asked again after this time, then after twice that, and so on.
constexpr Microseconds kFirstRepeat = 1'000 * kMillisecond;
constexpr Microseconds kLongestRepeat = 30'000 * kMillisecond;

/// For whom something was done so many times, the latest at that time.
bool is_time_again(int times, Microseconds latest) {
    return pg::steady_now() - latest >=
           std::min(kFirstRepeat << std::min(times - 1, 10), kLongestRepeat);
}

/// Is it time to do that: for the first time, or again?
bool is_due(const StallTrack& track, Deed deed, int64 subject) {
    return track.deed != deed || track.subject != subject || is_time_again(track.times, track.at);
}

bool is_done(const StallTrack& track, Deed deed, int64 subject) {
    return track.deed == deed && track.subject == subject;
}

void note_deed(StallTrack* track, Deed deed, int64 subject) {
    track->times = is_done(*track, deed, subject) ? track->times + 1 : 1;
    track->deed = deed;
    track->subject = subject;
    track->at = pg::steady_now();
}

// ---- What is done

/// Tells of a statement that was asked to end, and of one that has not done so.
void tell_of_cancel(const pg::StallCase& c, bool again) {
    const char* detail = pg::stall_words(c, pg::StallWords::detail);
    if (again) {
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

void cancel_guarded(const pg::StallCase& c, StallTrack* track) {
    const int64 subject = c.session.statement;
    if (!is_due(*track, Deed::cancelled, subject) ||
        pg::send_guard_order(c.procno, c.session, pg::GuardOrder::cancel, pg::report_of(c)) !=
            pg::OrderResult::sent)
        return;
    note_deed(track, Deed::cancelled, subject);
    tell_of_cancel(c, track->times > 1);
}

void spare(const pg::StallCase& c, const char* reason) {
    pg::count(pg::Counter::stall_spared);
    pg::record_stall(c, pg::EventKind::stall_spared, reason);
}

/// Something else that the transaction does.
void cancel_later(const pg::StallCase& c, const pg::BackendStateOnly& state, StallTrack* track) {
    if (state.type != B_BACKEND) {
        if (is_done(*track, Deed::spared_later, c.session.lxid))
            return;
        note_deed(track, Deed::spared_later, c.session.lxid);
        spare(c, core::spare_reason_text(core::SpareReason::background_process).data());
        return;
    }
    // A guarded statement that was asked to end reports that first, and still has its locks.
    const bool is_ending =
        track->deed == Deed::cancelled && pg::steady_now() - track->at < kFirstRepeat;
    // Whatever it does: in a pipeline each message begins a statement.
    if (is_ending ||
        (track->asked_times > 0 && !is_time_again(track->asked_times, track->asked_last)))
        return;
    const pg::StatementIdentity statement = {{c.procno, c.session.pid, c.session.lxid},
                                             state.state_start};
    if (pg::cancel_statement(statement, pg::stall_words(c, pg::StallWords::detail),
                             pg::stall_words(c, pg::StallWords::hint), nullptr, nullptr,
                             core::kStallMessage.data()) != pg::CancelResult::signaled)
        return;
    const bool again = track->asked_times > 0 && track->asked_statement == state.state_start;
    track->asked_times++;
    track->asked_last = pg::steady_now();
    track->asked_statement = state.state_start;
    tell_of_cancel(c, again);
}

void warn_of_idle(const pg::StallCase& c, const char* why_not) {
    spare(c, why_not);
    const char* detail = pg::stall_words(c, pg::StallWords::detail);
    if (c.session.pid == 0)
        ereport(WARNING, (errmsg("pg_lockguard: transaction %u of pg_prepared_xacts keeps others "
                                 "waiting, and is left alone: %s",
                                 c.session.lxid, why_not),
                          errdetail_log("%s", detail)));
    else
        ereport(WARNING, (errmsg("pg_lockguard: PID %d keeps others waiting, and is left alone: %s",
                                 c.session.pid, why_not),
                          errdetail_log("%s", detail)));
}

/// Does the fuse hold? Then that is said once.
bool fuse_holds(const pg::StallCase& c, bool rehearses, int64 subject, StallTrack* track) {
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

/// Does it serve no cancel request, because it waits for its client in the midst of a statement?
/// (COPY FROM STDIN without data, a pipeline without a Sync.) A while after the second: who gets
/// data for a COPY has served that, also where the first was for an earlier statement.
bool is_stalled(const pg::StallCase& c, const pg::BackendStateOnly& state,
                const StallTrack& track) {
    return state.type == B_BACKEND && track.asked_times > 1 &&
           pg::steady_now() - track.asked_last >= kFirstRepeat && pg::reads_from_client(c.procno);
}

/// As the worker does with any blocker that is idle, or stalled, but without blocker_min_idle and
/// blocker_min_wait: others have waited for long enough.
void deal_with_idle(const pg::StallCase& c, const pg::BackendStateOnly& state, StallTrack* track) {
    const bool stalled = c.kind == core::StallKind::stalled;
    const int64 subject = stalled ? static_cast<int64>(c.session.lxid) : state.state_start;
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
                                         state.state_start,
                                         stalled,
                                         stalled ? state.change_count : 0};
    const pg::RequestIdentity request = {wait.procno, c.snapshot->sessions[wait.session].id.pid,
                                         wait.tag, wait.mode, wait.low_priority};
    const char* detail = pg::stall_words(c, pg::StallWords::victim_detail);
    // Once it has been told to, it may be gone.
    pg::Event* event = pg::new_stall_event(c, rehearses ? pg::EventKind::stall_logged
                                                        : pg::EventKind::stall_terminated);
    const pg::TerminationResult result = rehearses
                                             ? pg::rehearse_termination(blocker, request)
                                             : pg::terminate_blocker(blocker, request, detail);
    if (result != pg::TerminationResult::signaled)
        return; // it has gone on, or nobody waits any more: the next look sees
    note_deed(track, Deed::dealt_with_idle, subject);
    core::note_termination(pg::worker_fuses(rehearses)->terminations, pg::steady_now());
    if (!rehearses)
        pg::count(pg::Counter::stall_terminations);
    pg::record_stall(event, pg::stall_words(c, pg::StallWords::detail));
    ereport(LOG, (errmsg("pg_lockguard: %s PID %d, %s in the transaction of a guarded statement",
                         rehearses ? "would terminate" : "terminated", c.session.pid,
                         stalled ? "waiting for its client" : "idle"),
                  errdetail_log("%s", pg::stall_words(c, pg::StallWords::detail))));
}

} // namespace

void forget(StallTrack* track) {
    if (track->record != nullptr)
        pfree(track->record);
    *track = {};
}

void note_clear(StallTrack* track, TimestampTz look) {
    if (track->record != nullptr)
        pfree(track->record);
    track->record = nullptr;
    track->clear_at = look;
    track->asked_times = 0;
}

pg::BehindRecord* record_of(StallTrack* track, const pg::GuardedSession& session) {
    if (track->record == nullptr) {
        track->record = static_cast<pg::BehindRecord*>(
            MemoryContextAlloc(TopMemoryContext, sizeof(pg::BehindRecord)));
        core::start_record(*track->record, std::max(session.since, track->clear_at));
    }
    return track->record;
}

void act_on_stall(pg::StallCase* c, StallTrack* track) {
    if (c->session.statement != 0) {
        cancel_guarded(*c, track);
        return;
    }
    pg::BackendStateOnly state;
    if (!pg::read_backend_state({c->procno, c->session.pid}, &state))
        return;
    if (pg::is_active(state.state) && is_stalled(*c, state, *track)) {
        c->kind = core::StallKind::stalled;
        deal_with_idle(*c, state, track);
    } else if (pg::is_active(state.state)) {
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

void act_on_prepared(const pg::StallCase& c, StallTrack* track) {
    if (is_done(*track, Deed::dealt_with_idle, c.session.lxid))
        return;
    note_deed(track, Deed::dealt_with_idle, c.session.lxid);
    warn_of_idle(c, core::spare_reason_text(core::SpareReason::prepared_transaction).data());
}

void end_wait(const pg::StallCase& c, const pg::SnapshotWait& own, TimestampTz wait_start,
              StallTrack* track) {
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

} // namespace lockguard::features
