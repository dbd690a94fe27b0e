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
// 2 to 5 are worker/blocker_look, 6 is worker/blocker_actions, which asks worker/blocker_history
// what has been said and done already; what comes of it is an event in the record
// (shmem/event_ring).
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
#include "worker/blocker_worker.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/settings.h"
#include "shmem/counters.h"
#include "shmem/protections.h"
#include "shmem/worker_state.h"
#include "worker/blocker_actions.h"
#include "worker/blocker_history.h"
#include "worker/blocker_look.h"
#include "worker/follow_up.h"
#include "worker/incident_watch.h"
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

// ---- Looks

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

/// Runs a look in its memory context, which is empty afterwards, and counts it where it fails.
template <class Look>
void run_look(MemoryContext context, Look look) {
    bool done = false;
    MemoryContextSwitchTo(context);
    pg::run_guarded(
        [&] {
            look();
            done = true;
        },
        [&] {
            if (!done)
                pg::count(pg::Counter::errors);
        });
    MemoryContextSwitchTo(TopMemoryContext);
    MemoryContextReset(context);
}

/// Once after each reload; also while no blockers are looked for, since ddl_on_timeout = terminate
/// goes by the names as well.
void check_names(MemoryContext context, History* history) {
    if (!history->looks.names_checked)
        run_look(context, [&] { pg::check_exempt_names(context, &history->looks); });
}

/// Looks for blockers, where anybody waits. Returns as look_and_act().
core::Microseconds look_for_blockers(MemoryContext context, History* history) {
    core::Microseconds next_due = -1;
    run_look(context, [&] {
        pg::count(pg::Counter::looks);
        if (history->follow_ups.count > 0)
            review_follow_ups(context, &history->follow_ups);
        if (pg::anybody_waits())
            next_due = look_and_act(context, history);
    });
    return next_due;
}

/// Looks whom guarded statements keep waiting. Returns when to do so again, by the steady clock.
core::Timestamp look_at_stalls(MemoryContext context, StallWatch* stalls) {
    core::Microseconds next = -1;
    run_look(context, [&] { next = watch_stalls(stalls, context); });
    return next < 0 ? core::kUnknownTime : pg::steady_now() + next;
}

/// Looks for incidents, where it is time to. Returns when to do so again, by the steady clock.
core::Timestamp look_for_incidents(MemoryContext context, IncidentWatch* incidents) {
    core::Timestamp next = core::kUnknownTime;
    run_look(context, [&] { next = watch_incidents(incidents, context); });
    return next;
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

/// When the next look for blockers, or for their exemptions' names, is due, at the latest, by the
/// steady clock; kUnknownTime where there is nothing to look for.
core::Timestamp time_of_next_look(const History& history, core::Microseconds next_due) {
    if (!pg::settings.looks_for_blockers() && history.looks.names_checked)
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
    // Also where the time is up by then: whether somebody has woken us is asked all the same.
    const core::Microseconds rest = std::max<core::Microseconds>(time - pg::steady_now(), 0);
    const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
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
            check_names(look_context, history);
            core::Microseconds next_due = -1;
            if (pg::settings.looks_for_blockers())
                next_due = look_for_blockers(look_context, history);
            next_look = time_of_next_look(*history, next_due);
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
