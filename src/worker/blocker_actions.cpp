#include "worker/blocker_actions.h"

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/settings.h"
#include "shmem/counters.h"
#include "shmem/worker_state.h"
#include "worker/blocker_cancel.h"
#include "worker/look_drawing.h"

namespace lockguard::features {

namespace {

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

// ---- Fuses

/// Does a fuse hold? Then that is said, once until it lets somebody pass, or for each request.
bool fuse_holds(pg::BlockerLook* look, const pg::BlockerCase& c, History* history) {
    const pg::RequestIdentity request = pg::request_identity(*look, c.decision);
    const pg::SnapshotWait& wait = *look->request_waits[c.decision.request];
    const bool cancel = c.decision.remedy == core::BlockerRemedy::cancel;
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

// ---- Acting

/// Signals, or looks whether it would. Returns why not, in static words; null where it did.
const char* signal(const pg::BlockerLook& look, const pg::BlockerCase& c, bool rehearses) {
    pg::BlockerIdentity blocker = pg::blocker_identity(look, c.decision);
    pg::RequestIdentity request = pg::request_identity(look, c.decision);
    const char* detail = in_words(look, core::victim_detail, c.words);
    if (c.decision.remedy == core::BlockerRemedy::cancel)
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

Deed deed_of(core::BlockerRemedy remedy, bool rehearses) {
    if (remedy == core::BlockerRemedy::end)
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
    if (decision.remedy == core::BlockerRemedy::end)
        return "";
    std::string_view text = pg::call_core(look.memory, [&](std::pmr::memory_resource& memory) {
        return core::duration_text(decision.idle, memory);
    });
    return psprintf("its statement has run for %s", text.data());
}

} // namespace

void deal_with(pg::BlockerLook* look, const pg::BlockerCase& c, History* history) {
    const core::BlockerRemedy remedy = c.decision.remedy;
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
    if (remedy == core::BlockerRemedy::cancel)
        follow_up(&history->follow_ups,
                  rehearses ? FollowUpKind::rehearsed_cancel : FollowUpKind::cancel, blocker,
                  request, *c.event);
    else if (rehearses)
        follow_up(&history->follow_ups, FollowUpKind::rehearsed_end, blocker, request, *c.event);
    ereport(LOG, (errmsg("pg_lockguard: %s %s", deed.log, line)));
}

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

} // namespace lockguard::features
