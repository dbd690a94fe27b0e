// The worker: a background process of the server that looks at the lock table every
// pg_lockguard.worker_interval. Where a session holds a lock, sits idle in its transaction, and
// keeps somebody from ACCESS EXCLUSIVE on a relation for too long, it ends that session, or says
// that it would (pg_lockguard.blocker_action).
//
// A look, cheapest question first:
//   1. Does anybody wait? An unlocked glance at the process array. Most looks end here.
//   2. Does anybody wait for ACCESS EXCLUSIVE on a relation? One copy of the wait-for graph.
//   3. Who holds what they wait for, and is idle in transaction? The status of those sessions.
//   4. Whom would the policy end (core/blocker_policy)?
//   5. Only then, in a short transaction: are they superusers, and what are the names?
//   6. End them, each by its full identity (pg/termination), or write the log line.
//
// It connects to no database: it reads shared catalogs only, and keeps no database from being
// dropped. It waits for no heavyweight lock: catalogs that can't be read now make it look again
// later. An ERROR ends the process, and the postmaster starts it anew after kRestartSeconds; it
// keeps nothing that a new one would miss.
#include "features/blocker_worker.h"

#include "core/blocker_policy.h"
#include "core/lock_graph.h"
#include "core/text.h"
#include "pg/backend_status.h"
#include "pg/bridge.h"
#include "pg/lock_snapshot.h"
#include "pg/object_names.h"
#include "pg/settings.h"
#include "pg/termination.h"

extern "C" {
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"

PGDLLEXPORT void pg_lockguard_worker_main(Datum argument);
}

namespace lockguard::features {

namespace {

constexpr int kRestartSeconds = 5;

// ---- What has been done already

/// A session in the state for which it was dealt with.
struct Dealt {
    int pid;
    LocalTransactionId lxid;
    TimestampTz state_start;

    bool operator==(const Dealt&) const = default;
};

/// What has been said or done about whom, so that the log has one line for each, not one for each
/// look. By procno; an entry whose session has gone on can match nothing again, and is overwritten
/// in time.
struct History {
    Dealt* dealt;             // allProcCount entries
    pg::BlockerAction action; // under which all of them were dealt with
};

void forget_all(History* history, pg::BlockerAction action) {
    memset(history->dealt, 0, sizeof(Dealt) * ProcGlobal->allProcCount);
    history->action = action;
}

bool was_dealt_with(const History& history, const pg::BlockerIdentity& blocker) {
    return history.dealt[blocker.procno] == Dealt{blocker.pid, blocker.lxid, blocker.state_start};
}

void remember(History* history, const pg::BlockerIdentity& blocker) {
    history->dealt[blocker.procno] = {blocker.pid, blocker.lxid, blocker.state_start};
}

// ---- One look

/// What one look gathers. Everything is in the look's memory context.
struct Look {
    MemoryContext memory;
    pg::LockSnapshot snapshot;
    core::LockGraph graph;

    core::BlockedRequest* requests;
    const pg::SnapshotWait** request_waits; // parallel to requests
    std::size_t request_count;

    // Both parallel to the snapshot's sessions. A session that holds nothing that a request waits
    // for has no status (null), and its facts say that it may not be ended.
    core::SessionFacts* facts;
    pg::BackendStatus** statuses;
    std::size_t session_count;

    std::span<const core::BlockerDecision> decisions;
};

/// Collects the waits for ACCESS EXCLUSIVE on a relation.
void collect_requests(Look* look) {
    const pg::LockSnapshot& snapshot = look->snapshot;
    auto room = static_cast<Size>(snapshot.wait_count);
    look->requests = static_cast<core::BlockedRequest*>(palloc(room * sizeof(*look->requests)));
    look->request_waits =
        static_cast<const pg::SnapshotWait**>(palloc(room * sizeof(*look->request_waits)));
    look->request_count = 0;
    for (int i = 0; i < snapshot.wait_count; i++) {
        const pg::SnapshotWait& wait = snapshot.waits[i];
        if (wait.safe_snapshot || wait.tag.locktag_type != LOCKTAG_RELATION ||
            wait.mode != core::kAccessExclusive)
            continue;
        const pg::SnapshotSession& session = snapshot.sessions[wait.session];
        if (session.procno != wait.procno)
            continue; // a parallel worker never asks for it; its own pid is not in the snapshot
        pg::BackendStateOnly state;
        bool client = pg::read_backend_state({session.procno, session.pid}, &state) &&
                      state.type == B_BACKEND;
        look->requests[look->request_count] = {wait.session, wait.tag.locktag_field2, wait.mode,
                                               wait.wait_start, client};
        look->request_waits[look->request_count] = &wait;
        look->request_count++;
    }
}

void build_graph(Look* look) {
    look->graph = pg::call_core(look->memory, [look](std::pmr::memory_resource& memory) {
        return core::build_lock_graph(look->snapshot.table, memory);
    });
}

/// Reads the status of one session. Whether it is a superuser's is found out later (see
/// look_up_superusers).
void read_facts(Look* look, core::SessionIndex index) {
    const pg::SnapshotSession& session = look->snapshot.sessions[index];
    auto* status = static_cast<pg::BackendStatus*>(palloc(sizeof(pg::BackendStatus)));
    if (session.pid == 0 || !pg::read_backend_status({session.procno, session.pid}, status))
        return;
    // The status is younger than the snapshot. It is about the same transaction only if that still
    // runs now.
    if (pg::compat::lxid_of(GetPGProcByNumber(session.procno)) != session.lxid)
        return;
    core::SessionFacts* facts = &look->facts[index];
    facts->client_backend = status->type == B_BACKEND;
    facts->idle_in_transaction = pg::is_idle_in_transaction(status->state);
    facts->aborted = status->state == STATE_IDLEINTRANSACTION_ABORTED;
    facts->state_start = status->state_start;
    if (status->xact_start != 0)
        look->snapshot.core_sessions[index].xact_start = status->xact_start;
    look->statuses[index] = status;
}

/// Reads the status of the sessions that hold what a request waits for. Returns false where none of
/// them can come into question.
bool collect_facts(Look* look) {
    look->session_count = look->graph.sessions.size();
    look->facts =
        static_cast<core::SessionFacts*>(palloc0(look->session_count * sizeof(*look->facts)));
    look->statuses =
        static_cast<pg::BackendStatus**>(palloc0(look->session_count * sizeof(*look->statuses)));
    bool any = false;
    for (std::size_t i = 0; i < look->request_count; i++) {
        for (const core::Edge& edge : look->graph.blockers_of(look->requests[i].session)) {
            if (!edge.holds || look->statuses[edge.blocker] != nullptr)
                continue;
            read_facts(look, edge.blocker);
            any |= look->facts[edge.blocker].idle_in_transaction;
        }
    }
    return any;
}

void judge(Look* look) {
    core::BlockerLimits limits = {
        static_cast<core::Microseconds>(pg::settings.blocker_min_idle) * 1000,
        static_cast<core::Microseconds>(pg::settings.blocker_min_wait) * 1000,
    };
    TimestampTz now = GetCurrentTimestamp();
    look->decisions = pg::call_core(look->memory, [&](std::pmr::memory_resource& memory) {
        return core::judge_blockers(look->graph, {look->facts, look->session_count},
                                    {look->requests, look->request_count}, limits, now, memory);
    });
}

/// Finds out which of the victims are superusers. Their authenticated role counts: SET ROLE neither
/// protects nor exposes. The caller has the catalogs open.
void look_up_superusers(Look* look) {
    for (const core::BlockerDecision& decision : look->decisions)
        look->facts[decision.victim].superuser =
            superuser_arg(look->snapshot.sessions[decision.victim].role);
}

/// What the policy ended up with, in words and names. The caller has the catalogs open.
core::Termination describe(const Look& look, const core::BlockerDecision& decision,
                           pg::NameLookup lookup) {
    auto text = [](const char* name) { return name == nullptr ? std::string_view() : name; };
    const pg::SnapshotWait& wait = *look.request_waits[decision.request];
    const pg::SnapshotSession& victim = look.snapshot.sessions[decision.victim];
    const pg::SnapshotSession& blocked = look.snapshot.sessions[wait.session];
    const pg::BackendStatus& status = *look.statuses[decision.victim];

    pg::BackendStatus blocked_status;
    const char* command = nullptr;
    if (pg::read_backend_status({blocked.procno, blocked.pid}, &blocked_status))
        command = pg::leading_command(blocked_status.query);

    core::Termination termination;
    termination.victim_pid = victim.pid;
    termination.role = text(pg::role_name(victim.role, lookup));
    termination.database = text(pg::database_name(status.database, lookup));
    termination.application = status.application_name;
    termination.aborted = look.facts[decision.victim].aborted;
    termination.idle = decision.idle;
    termination.blocked_pid = blocked.pid;
    termination.blocked_command = text(command);
    termination.blocked_mode = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
    termination.relation = wait.tag.locktag_field2;
    termination.blocked_for = decision.blocked_for;
    termination.others_blocked = decision.blocks > 0 ? decision.blocks - 1 : 0;
    return termination;
}

/// Judges again, knowing who is a superuser, and puts what is left into words. Returns null where
/// the catalogs can't be read without waiting for a lock: then it is for the next look.
core::Termination* judge_with_catalogs(Look* look) {
    core::Termination* terminations = nullptr;
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    MemoryContextSwitchTo(look->memory);
    pg::NameLookup lookup = pg::open_name_lookup();
    if (lookup.globals) {
        look_up_superusers(look);
        judge(look);
        terminations = static_cast<core::Termination*>(
            palloc((look->decisions.size() + 1) * sizeof(core::Termination)));
        for (std::size_t i = 0; i < look->decisions.size(); i++)
            terminations[i] = describe(*look, look->decisions[i], lookup);
    }
    pg::close_name_lookup(lookup);
    CommitTransactionCommand();
    MemoryContextSwitchTo(look->memory);
    pgstat_report_stat(true);
    return terminations;
}

// ---- Acting

using Words = std::string_view (*)(const core::Termination&, std::pmr::memory_resource&);

const char* in_words(const Look& look, Words words, const core::Termination& termination) {
    std::string_view text = pg::call_core(
        look.memory, [&](std::pmr::memory_resource& memory) { return words(termination, memory); });
    return text.data();
}

/// One at a time: the check, the signal, the line in the log. A session that has been sent SIGTERM
/// and is still there has not got round to it yet: it is neither signaled nor logged again.
void act(const Look& look, const core::Termination* terminations, History* history) {
    bool for_real = history->action == pg::BlockerAction::terminate;
    for (std::size_t i = 0; i < look.decisions.size(); i++) {
        const core::BlockerDecision& decision = look.decisions[i];
        const pg::SnapshotWait& wait = *look.request_waits[decision.request];
        const pg::SnapshotSession& victim = look.snapshot.sessions[decision.victim];
        const pg::SnapshotSession& blocked = look.snapshot.sessions[wait.session];
        pg::BlockerIdentity blocker = {victim.procno, victim.pid, victim.lxid,
                                       look.facts[decision.victim].state_start};
        pg::RequestIdentity request = {wait.procno, blocked.pid, wait.tag, wait.mode,
                                       wait.low_priority};
        if (was_dealt_with(*history, blocker))
            continue;

        const char* line = in_words(look, core::termination_log_line, terminations[i]);
        pg::TerminationResult result =
            for_real ? pg::terminate_blocker(blocker, request,
                                             in_words(look, core::victim_detail, terminations[i]))
                     : pg::rehearse_termination(blocker, request);
        if (result != pg::TerminationResult::signaled) {
            ereport(DEBUG1, (errmsg_internal("pg_lockguard: PID %d is left alone: %s", blocker.pid,
                                             pg::termination_result_text(result))));
            continue;
        }
        remember(history, blocker);
        if (for_real)
            ereport(LOG, (errmsg("pg_lockguard: terminated %s", line)));
        else
            ereport(LOG, (errmsg("pg_lockguard: would terminate %s", line)));
    }
}

/// The steps of a look, in the order given at the top.
void look_and_act(MemoryContext context, History* history) {
    Look look = {};
    look.memory = context;
    if (!pg::take_lock_snapshot(&look.snapshot))
        return;
    collect_requests(&look);
    if (look.request_count == 0)
        return;
    build_graph(&look);
    if (!collect_facts(&look))
        return;
    judge(&look);
    if (look.decisions.empty())
        return;
    const core::Termination* terminations = judge_with_catalogs(&look);
    if (terminations == nullptr) {
        ereport(DEBUG1, (errmsg_internal(
                            "pg_lockguard: roles can't be looked up without waiting for a lock")));
        return;
    }
    act(look, terminations, history);
}

// ---- The process

void reload_configuration(History* history) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    pg::BlockerAction action = pg::settings.action();
    if (action != history->action)
        forget_all(history, action);
}

/// Sleeps until the next look is due; until somebody wakes us, where there is nothing to look for.
void sleep_until_next_look(pg::BlockerAction action, uint32 wait_event) {
    int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
    long timeout = -1;
    if (action != pg::BlockerAction::off) {
        events |= WL_TIMEOUT;
        timeout = pg::settings.worker_interval;
    }
    WaitLatch(MyLatch, events, timeout, wait_event);
    ResetLatch(MyLatch);
}

[[noreturn]] void run() {
    uint32 wait_event = pg::compat::new_wait_event("PgLockguardWorker");
    MemoryContext look_context =
        AllocSetContextCreate(TopMemoryContext, "pg_lockguard look", ALLOCSET_DEFAULT_SIZES);
    History history;
    history.dealt = static_cast<Dealt*>(
        MemoryContextAlloc(TopMemoryContext, sizeof(Dealt) * ProcGlobal->allProcCount));
    forget_all(&history, pg::settings.action());

    while (!ShutdownRequestPending) {
        CHECK_FOR_INTERRUPTS();
        if (ConfigReloadPending)
            reload_configuration(&history);
        if (history.action != pg::BlockerAction::off && pg::anybody_waits()) {
            MemoryContextSwitchTo(look_context);
            look_and_act(look_context, &history);
            MemoryContextSwitchTo(TopMemoryContext);
            MemoryContextReset(look_context);
        }
        sleep_until_next_look(history.action, wait_event);
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
