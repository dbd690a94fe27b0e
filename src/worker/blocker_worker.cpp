// The worker: a background process of the server that looks at the lock table every
// pg_lockguard.worker_interval. Where a session holds a lock, sits idle in its transaction, and
// keeps somebody from ACCESS EXCLUSIVE on a relation for too long, it ends that session, or says
// that it would (pg_lockguard.blocker_action). Where such a session is not idle, but has worked on
// one statement for too long, it cancels that (pg_lockguard.blocker_active_action).
//
// A look, cheapest question first:
//   1. Does anybody wait? An unlocked glance at the process array. Most looks end here.
//   2. Does anybody wait for ACCESS EXCLUSIVE on a relation, or for what else counts? One copy of
//      the wait-for graph.
//   3. Who holds what they wait for, and is idle in transaction? The status of those sessions.
//   4. Whom would the policy end (core/blocker_policy)?
//   5. Only then, in a short transaction: are they superusers or exempt, and what are the names?
//   6. End them, each by its full identity (worker/last_check), or cancel their statements
//      (worker/blocker_cancel), as far as the fuses allow it, or write the log line. Those that the
//      policy spares are named with the reason.
// 2 to 5 are worker/blocker_look; what comes of 6 is an event in the record (shmem/event_ring).
//
// In the rehearsal (log) it goes on to watch those that it would have dealt with, and records when
// they cease to block by themselves; and those whose statement it has cancelled, whether the lock
// is free then (worker/follow_up).
//
// In between it watches whom guarded statements keep waiting (worker/stall_watch), whatever
// blocker_action is.
//
// It connects to no database: it reads shared catalogs only, and keeps no database from being
// dropped. It waits for no heavyweight lock: catalogs that can't be read now make it look again
// later. An ERROR ends the process, and the postmaster starts it anew after kRestartSeconds. The
// fuses lie in shared memory and outlive it. What it has said already, it says again, and what it
// watched in a rehearsal is forgotten.
//
// (Longer than other files: what has been said and done already decides each of its steps.)
#include "worker/blocker_worker.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/memory.h"
#include "boundary/settings.h"
#include "shmem/counters.h"
#include "shmem/protections.h"
#include "shmem/worker_state.h"
#include "worker/blocker_cancel.h"
#include "worker/blocker_look.h"
#include "worker/follow_up.h"
#include "worker/incident_watch.h"
#include "worker/look_drawing.h"
#include "worker/stall_watch.h"

extern "C" {
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

PGDLLEXPORT void pg_lockguard_worker_main(Datum argument);
}

namespace lockguard::features {

namespace {

constexpr int kRestartSeconds = 5;

// However often it is woken, it looks no more often than that (ms).
constexpr int kShortestGap = 10;

// ---- What has been done already

/// A session in the state for which it was dealt with.
struct Dealt {
    pg::SessionId session;    // as in BlockerIdentity
    TimestampTz state_start;  // 0 in an unused entry
    core::SpareReason spared; // none: it was dealt with, or would have been
    core::Remedy remedy;

    bool operator==(const Dealt&) const = default;
};

/// What the worker does: as the settings say.
struct Actions {
    pg::BlockerAction idle;
    pg::BlockerActiveAction active;

    bool operator==(const Actions&) const = default;
    bool rehearses(core::Remedy remedy) const {
        return remedy == core::Remedy::end ? idle != pg::BlockerAction::terminate
                                           : active != pg::BlockerActiveAction::cancel;
    }
};

Actions actions_by_settings() {
    return {pg::settings.action(), pg::settings.active_action()};
}

/// What has been said or done about whom, so that the log has one line for each, not one for each
/// look. By procno; an entry whose session has gone on can match nothing again, and is overwritten
/// in time.
struct History {
    Dealt* dealt;          // proc_count entries
    TimestampTz* held_for; // likewise, by who waits: the wait whose fuse has been reported
    int proc_count;        // of processes and prepared transactions
    Actions actions;       // under which all of them were dealt with
    FollowUps follow_ups;
    bool fuse_reported; // that of terminations per minute, since it last let somebody pass
    pg::LookMemory looks;
};

void forget_all(History* history, Actions actions) {
    memset(static_cast<void*>(history->dealt), 0, sizeof(Dealt) * history->proc_count);
    memset(history->held_for, 0, sizeof(TimestampTz) * history->proc_count);
    forget_follow_ups(&history->follow_ups);
    history->fuse_reported = false;
    history->actions = actions;
}

void begin_history(History* history) {
    memset(static_cast<void*>(history), 0, sizeof(*history));
    history->proc_count = pg::compat::count_of_procs();
    auto count = static_cast<std::size_t>(history->proc_count);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    history->dealt = pg::new_zeroed_array<Dealt>(count);
    history->looks.stalls = pg::new_zeroed_array<pg::Stall>(count);
    history->held_for = pg::new_zeroed_array<TimestampTz>(count);
    MemoryContextSwitchTo(caller);
    forget_all(history, actions_by_settings());
}

Dealt dealt_with(const pg::BlockerIdentity& blocker, core::SpareReason spared) {
    return {blocker.session, blocker.state_start, spared,
            blocker.active ? core::Remedy::cancel : core::Remedy::end};
}

bool was_dealt_with(const History& history, const pg::BlockerIdentity& blocker,
                    core::SpareReason spared) {
    return history.dealt[blocker.session.procno] == dealt_with(blocker, spared);
}

void remember(History* history, const pg::BlockerIdentity& blocker, core::SpareReason spared) {
    history->dealt[blocker.session.procno] = dealt_with(blocker, spared);
}

// ---- Telling

using Words = std::string_view (*)(const core::Termination&, std::pmr::memory_resource&);

const char* in_words(const pg::BlockerLook& look, Words words,
                     const core::Termination& termination) {
    std::string_view text = pg::call_core(
        look.memory, [&](std::pmr::memory_resource& memory) { return words(termination, memory); });
    return text.data();
}

void record(pg::BlockerLook* look, const pg::BlockerCase& c, pg::EventKind kind,
            std::string_view reason) {
    c.event->kind = kind;
    pg::set_event_text(c.event->reason, reason);
    pg::set_tree(look, c.decision.victim, c.event);
    pg::record_event(c.event, c.names);
}

pg::Counter counter_of(core::SpareReason reason) {
    static_assert(static_cast<int>(core::SpareReason::no_client_waits) + 1 == core::kSpareReasons);
    static_assert(static_cast<int>(pg::Counter::spared_no_client) -
                      static_cast<int>(pg::Counter::spared_prepared) ==
                  static_cast<int>(core::SpareReason::no_client_waits) -
                      static_cast<int>(core::SpareReason::prepared_transaction));
    return static_cast<pg::Counter>(static_cast<int>(pg::Counter::spared_prepared) +
                                    static_cast<int>(reason) -
                                    static_cast<int>(core::SpareReason::prepared_transaction));
}

// ---- Acting

/// Says whom the policy spares, once for each state of the session.
void spare(pg::BlockerLook* look, const pg::BlockerCase& c, History* history) {
    pg::BlockerIdentity blocker = pg::blocker_identity(*look, c.decision);
    core::SpareReason reason = c.decision.spared;
    if (was_dealt_with(*history, blocker, reason))
        return;
    // Clients come and go behind a request: what has been said of the session need not be said
    // again when there is one once more.
    if (reason == core::SpareReason::no_client_waits &&
        was_dealt_with(*history, blocker, core::SpareReason::none))
        return;
    remember(history, blocker, reason);
    pg::count(counter_of(reason));
    std::string_view text = core::spare_reason_text(reason);
    const char* told = text.data();
    const char* logged = told;
    if (reason == core::SpareReason::prepared_transaction)
        told = psprintf("transaction %u of pg_prepared_xacts: %s", blocker.session.lxid, told);
    else if (reason == core::SpareReason::no_client_waits)
        told = logged = psprintf("the request of a background process (%s) does not count: no "
                                 "client waits behind it",
                                 c.requester);
    record(look, c, pg::EventKind::blocker_spared, told);
    ereport(LOG, (errmsg("pg_lockguard: spared %s: %s",
                         in_words(*look, core::termination_log_line, c.words), logged)));
}

/// Does a fuse hold? Then that is said, once until it lets somebody pass, or for each request.
bool fuse_holds(pg::BlockerLook* look, const pg::BlockerCase& c, History* history) {
    const pg::RequestIdentity request = pg::request_identity(*look, c.decision);
    const pg::SnapshotWait& wait = *look->request_waits[c.decision.request];
    const bool cancel = c.decision.remedy == core::Remedy::cancel;
    const pg::WorkerFuses* fuses = pg::worker_fuses(history->actions.rehearses(c.decision.remedy));
    const auto limit = static_cast<uint32>(pg::settings.max_terminations_per_minute);
    const core::Microseconds now = pg::steady_now();
    char reason[128];
    if (!core::fuse_allows(fuses->terminations, limit, now)) {
        if (history->fuse_reported)
            return true;
        history->fuse_reported = true;
        snprintf(reason, sizeof(reason),
                 "pg_lockguard.max_terminations_per_minute (%u) has been reached", limit);
    } else if (core::request_fuse_holds(
                   fuses->requests[request.procno], request.pid, wait.wait_start,
                   static_cast<core::Microseconds>(pg::settings.blocker_min_wait) * 1000, now)) {
        history->fuse_reported = false;
        if (history->held_for[request.procno] == wait.wait_start)
            return true;
        history->held_for[request.procno] = wait.wait_start;
        snprintf(reason, sizeof(reason),
                 "another blocker of the same request was dealt with less than "
                 "pg_lockguard.blocker_min_wait (%d ms) ago",
                 pg::settings.blocker_min_wait);
    } else {
        history->fuse_reported = false;
        return false;
    }
    pg::count(pg::Counter::fuses_blown);
    record(look, c, pg::EventKind::fuse_blown, reason);
    ereport(LOG, (errmsg("pg_lockguard: a fuse holds: %s", reason),
                  errdetail_log("Not %s for now: %s.", cancel ? "cancelled" : "ended",
                                in_words(*look, core::termination_log_line, c.words))));
    return true;
}

void note_fuses(const pg::BlockerLook& look, const pg::BlockerCase& c, const History& history) {
    const pg::RequestIdentity request = pg::request_identity(look, c.decision);
    pg::WorkerFuses* fuses = pg::worker_fuses(history.actions.rehearses(c.decision.remedy));
    core::Microseconds now = pg::steady_now();
    core::note_termination(fuses->terminations, now);
    fuses->requests[request.procno] = {request.pid,
                                       look.request_waits[c.decision.request]->wait_start, now};
}

/// Signals, or looks whether it would. Returns why not, in static words; null where it did.
const char* signal(const pg::BlockerLook& look, const pg::BlockerCase& c, bool rehearses) {
    pg::BlockerIdentity blocker = pg::blocker_identity(look, c.decision);
    pg::RequestIdentity request = pg::request_identity(look, c.decision);
    const char* detail = in_words(look, core::victim_detail, c.words);
    if (c.decision.remedy == core::Remedy::cancel)
        return rehearses ? pg::rehearse_blocker_cancel(blocker, request)
                         : pg::cancel_blocker(blocker, request, detail, core::cancel_hint().data());
    pg::TerminationResult result = rehearses ? pg::rehearse_termination(blocker, request)
                                             : pg::terminate_blocker(blocker, request, detail);
    return result == pg::TerminationResult::signaled ? nullptr
                                                     : pg::termination_result_text(result);
}

/// What is counted, recorded and logged of a blocker that was dealt with.
struct Deed {
    pg::Counter counter;
    pg::EventKind event;
    const char* log; // before the line about it
};

Deed deed_of(core::Remedy remedy, bool rehearses) {
    if (remedy == core::Remedy::end)
        return rehearses
                   ? Deed{pg::Counter::rehearsals, pg::EventKind::blocker_logged, "would terminate"}
                   : Deed{pg::Counter::terminations, pg::EventKind::blocker_terminated,
                          "terminated"};
    return rehearses ? Deed{pg::Counter::cancel_rehearsals, pg::EventKind::blocker_cancel_logged,
                            "would cancel the statement of"}
                     : Deed{pg::Counter::cancellations, pg::EventKind::blocker_cancelled,
                            "cancelled the statement of"};
}

/// How long a statement has run, in words; empty for an idle session, of which that is no question.
const char* running_time(const pg::BlockerLook& look, const core::BlockerDecision& decision) {
    if (decision.remedy == core::Remedy::end)
        return "";
    std::string_view text = pg::call_core(look.memory, [&](std::pmr::memory_resource& memory) {
        return core::duration_text(decision.idle, memory);
    });
    return psprintf("its statement has run for %s", text.data());
}

/// One at a time: the check, the signal, the line in the log. A session that has been sent a signal
/// and is still there, or in that statement, has not got round to it yet: it is neither signaled
/// nor logged again.
void deal_with(pg::BlockerLook* look, const pg::BlockerCase& c, History* history) {
    const core::Remedy remedy = c.decision.remedy;
    const bool rehearses = history->actions.rehearses(remedy);
    pg::BlockerIdentity blocker = pg::blocker_identity(*look, c.decision);
    pg::RequestIdentity request = pg::request_identity(*look, c.decision);
    if (was_dealt_with(*history, blocker, core::SpareReason::none) || fuse_holds(look, c, history))
        return;

    const char* line = in_words(*look, core::termination_log_line, c.words);
    const char* ran = running_time(*look, c.decision);
    const char* why_not = signal(*look, c, rehearses);
    if (why_not != nullptr) {
        pg::count(pg::Counter::spared_changed);
        record(look, c, pg::EventKind::blocker_spared, why_not);
        ereport(DEBUG1, (errmsg_internal("pg_lockguard: PID %d is left alone: %s",
                                         blocker.session.pid, why_not)));
        return;
    }
    remember(history, blocker, core::SpareReason::none);
    note_fuses(*look, c, *history);
    Deed deed = deed_of(remedy, rehearses);
    pg::count(deed.counter);
    record(look, c, deed.event, ran);
    if (remedy == core::Remedy::cancel)
        follow_up(&history->follow_ups,
                  rehearses ? FollowUpKind::rehearsed_cancel : FollowUpKind::cancel, blocker,
                  request, *c.event);
    else if (rehearses)
        follow_up(&history->follow_ups, FollowUpKind::rehearsed_end, blocker, request, *c.event);
    ereport(LOG, (errmsg("pg_lockguard: %s %s", deed.log, line)));
}

/// The steps of a look, in the order given at the top. Returns in how many microseconds somebody
/// will be due; negative for nobody.
core::Microseconds look_and_act(MemoryContext context, History* history) {
    pg::BlockerLook look;
    if (!pg::look_for_blockers(context, &history->looks, &look))
        return -1;
    if (look.judgement.to_end.empty() && look.judgement.to_spare.empty())
        return look.judgement.next_due;
    pg::BlockerCases cases = pg::judge_with_catalogs(&look, &history->looks);
    if (cases.cases == nullptr) {
        ereport(DEBUG1, (errmsg_internal(
                            "pg_lockguard: roles can't be looked up without waiting for a lock")));
        return -1;
    }
    for (std::size_t i = 0; i < cases.to_end; i++)
        deal_with(&look, cases.cases[i], history);
    for (std::size_t i = cases.to_end; i < cases.count; i++)
        spare(&look, cases.cases[i], history);
    return look.judgement.next_due;
}

// ---- The process

void reload_configuration(History* history) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    pg::publish_server_protection();
    history->looks.names_checked = false;
    history->looks.names_reported = false;
    Actions actions = actions_by_settings();
    if (actions != history->actions)
        forget_all(history, actions);
}

/// Looks, where there is something to look for. Returns as look_and_act().
core::Microseconds look(MemoryContext context, History* history) {
    core::Microseconds next_due = -1;
    bool done = false;
    MemoryContextSwitchTo(context);
    pg::run_guarded(
        [&] {
            pg::count(pg::Counter::looks);
            pg::check_exempt_names(context, &history->looks);
            if (history->follow_ups.count > 0)
                review_follow_ups(context, &history->follow_ups);
            if (pg::anybody_waits())
                next_due = look_and_act(context, history);
            done = true;
        },
        [&] {
            if (!done)
                pg::count(pg::Counter::errors);
        });
    MemoryContextSwitchTo(TopMemoryContext);
    MemoryContextReset(context);
    return next_due;
}

/// Looks whom guarded statements keep waiting. Returns when to do so again, by the steady clock.
core::Timestamp look_at_stalls(MemoryContext context, StallWatch* stalls) {
    core::Microseconds next = -1;
    bool done = false;
    pg::run_guarded(
        [&] {
            next = watch_stalls(stalls, context);
            done = true;
        },
        [&] {
            if (!done)
                pg::count(pg::Counter::errors);
        });
    MemoryContextSwitchTo(TopMemoryContext);
    MemoryContextReset(context);
    return next < 0 ? core::kUnknownTime : pg::steady_now() + next;
}

/// Looks for incidents, where it is time to. Returns when to do so again, by the steady clock.
core::Timestamp look_for_incidents(MemoryContext context, IncidentWatch* incidents) {
    core::Timestamp next = core::kUnknownTime;
    bool done = false;
    pg::run_guarded(
        [&] {
            next = watch_incidents(incidents, context);
            done = true;
        },
        [&] {
            if (!done)
                pg::count(pg::Counter::errors);
        });
    MemoryContextSwitchTo(TopMemoryContext);
    MemoryContextReset(context);
    return next;
}

/// When the next look for blockers is due, at the latest, by the steady clock; kUnknownTime where
/// there is nothing to look for.
core::Timestamp time_of_next_look(core::Microseconds next_due) {
    if (!pg::settings.looks_for_blockers())
        return core::kUnknownTime;
    core::Microseconds rest = pg::settings.worker_interval * core::kMillisecond;
    if (next_due >= 0)
        rest = std::min(rest, next_due + core::kMillisecond);
    return pg::steady_now() + rest;
}

/// Sleeps until that time by the steady clock, or somebody wakes us. Returns whether somebody has.
/// The latch is reset only where that is returned: one that is set when the time is up already is
/// for the next sleep to find, not lost.
bool sleep_until(core::Timestamp time, uint32 wait_event) {
    if (time == core::kUnknownTime) {
        WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, wait_event);
        ResetLatch(MyLatch);
        return true;
    }
    // First without the latch: however many wake us, they share one look.
    WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, kShortestGap, wait_event);
    core::Microseconds rest = time - pg::steady_now();
    int events = WL_LATCH_SET;
    if (rest > 0)
        events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                           static_cast<long>((rest + 999) / 1000), wait_event);
    const bool woken = (events & WL_LATCH_SET) != 0;
    if (woken)
        ResetLatch(MyLatch);
    return woken;
}

[[noreturn]] void run() {
    uint32 wait_event = pg::compat::new_wait_event("PgLockguardWorker");
    MemoryContext look_context =
        AllocSetContextCreate(TopMemoryContext, "pg_lockguard look", ALLOCSET_DEFAULT_SIZES);
    auto* history = static_cast<History*>(MemoryContextAlloc(TopMemoryContext, sizeof(History)));
    begin_history(history);
    StallWatch* stalls = start_stall_watch();
    IncidentWatch* incidents = start_incident_watch();
    pg::announce_worker();
    pg::publish_server_protection();

    core::Timestamp next_look = core::kUnknownTime;
    for (bool woken = true; !ShutdownRequestPending;) {
        CHECK_FOR_INTERRUPTS();
        if (ConfigReloadPending)
            reload_configuration(history);
        if (woken || pg::steady_now() >= next_look) {
            core::Microseconds next_due = -1;
            if (pg::settings.looks_for_blockers())
                next_due = look(look_context, history);
            next_look = time_of_next_look(next_due);
        }
        core::Timestamp next_stalls = look_at_stalls(look_context, stalls);
        core::Timestamp next_incidents = look_for_incidents(look_context, incidents);
        woken = sleep_until(std::min({next_look, next_stalls, next_incidents}), wait_event);
    }
    // Had it been 0, pg_terminate_backend() would retire the worker until the server is restarted.
    proc_exit(1);
}

} // namespace

void register_blocker_worker() {
    BackgroundWorker worker = {};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    // On a standby there may be nothing to end, but after a promotion there is.
    worker.bgw_start_time = BgWorkerStart_ConsistentState;
    worker.bgw_restart_time = kRestartSeconds;
    strlcpy(worker.bgw_library_name, "pg_lockguard", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "pg_lockguard_worker_main", sizeof(worker.bgw_function_name));
    strlcpy(worker.bgw_name, "pg_lockguard worker", sizeof(worker.bgw_name));
    strlcpy(worker.bgw_type, "pg_lockguard worker", sizeof(worker.bgw_type));
    RegisterBackgroundWorker(&worker);
}

} // namespace lockguard::features

void pg_lockguard_worker_main(Datum /*argument*/) {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    // Not die(), which would leave a FATAL in the log at every shutdown of the server. A look is
    // short and never waits for a heavyweight lock, so it need not be interrupted.
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
    lockguard::features::run();
}
