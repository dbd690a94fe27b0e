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
//   5. Only then, in a short transaction: are they superusers or exempt, and what are the names?
//   6. End them, each by its full identity (pg/termination), as far as the fuses allow it, or write
//      the log line. Those that the policy spares are named with the reason.
// Each of these is an event in the record (pg/event_ring).
//
// In the rehearsal (blocker_action = log) it goes on to watch those that it would have ended, and
// records when they cease to block by themselves.
//
// It connects to no database: it reads shared catalogs only, and keeps no database from being
// dropped. It waits for no heavyweight lock: catalogs that can't be read now make it look again
// later. An ERROR ends the process, and the postmaster starts it anew after kRestartSeconds. The
// fuses lie in shared memory and outlive it. What it has said already, it says again, and what it
// watched in a rehearsal is forgotten.
#include "features/blocker_worker.h"

#include "core/blocker_policy.h"
#include "core/event_text.h"
#include "core/lock_forest.h"
#include "core/lock_graph.h"
#include "core/text.h"
#include "pg/backend_status.h"
#include "pg/bridge.h"
#include "pg/event_ring.h"
#include "pg/lock_snapshot.h"
#include "pg/object_names.h"
#include "pg/role_membership.h"
#include "pg/settings.h"
#include "pg/shared_state.h"
#include "pg/statistics.h"
#include "pg/termination.h"

extern "C" {
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/varlena.h"

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
    int pid;                  // 0 for a prepared transaction
    LocalTransactionId lxid;  // or its xid
    TimestampTz state_start;  // 0 in an unused entry
    core::SpareReason spared; // none: it was ended, or would have been

    bool operator==(const Dealt&) const = default;
};

/// Since when a session has read from its client without any change of its status, or a prepared
/// transaction has been in the way. (When it was prepared can't be asked in no database.)
struct Stall {
    int pid;
    LocalTransactionId lxid;
    int change_count;
    TimestampTz since;
};

/// A session that would have been ended, watched until it has ceased to block.
struct Rehearsal {
    pg::BlockerIdentity blocker;
    pg::RequestIdentity request;
    pg::Event* event; // as it was recorded; null in an unused one
};
constexpr int kMostRehearsals = 100;

/// What has been said or done about whom, so that the log has one line for each, not one for each
/// look. By procno; an entry whose session has gone on can match nothing again, and is overwritten
/// in time.
struct History {
    Dealt* dealt;             // proc_count entries
    Stall* stalls;            // likewise
    TimestampTz* held_for;    // likewise, by who waits: the wait whose fuse has been reported
    int proc_count;           // of processes and prepared transactions
    pg::BlockerAction action; // under which all of them were dealt with
    Rehearsal rehearsals[kMostRehearsals];
    int rehearsal_count;
    bool fuse_reported;  // that of terminations per minute, since it last let somebody pass
    bool roles_reported; // names in exempt_roles that do not exist, since the latest reload

    bool rehearses() const { return action != pg::BlockerAction::terminate; }
};

void forget_rehearsal(History* history, int index) {
    pfree(history->rehearsals[index].event);
    history->rehearsals[index] = history->rehearsals[--history->rehearsal_count];
}

void forget_all(History* history, pg::BlockerAction action) {
    memset(static_cast<void*>(history->dealt), 0, sizeof(Dealt) * history->proc_count);
    memset(history->held_for, 0, sizeof(TimestampTz) * history->proc_count);
    while (history->rehearsal_count > 0)
        forget_rehearsal(history, 0);
    history->fuse_reported = false;
    history->action = action;
}

void begin_history(History* history) {
    memset(static_cast<void*>(history), 0, sizeof(*history));
    history->proc_count = static_cast<int>(ProcGlobal->allProcCount) + max_prepared_xacts;
    auto count = static_cast<Size>(history->proc_count);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    history->dealt = static_cast<Dealt*>(palloc0(sizeof(Dealt) * count));
    history->stalls = static_cast<Stall*>(palloc0(sizeof(Stall) * count));
    history->held_for = static_cast<TimestampTz*>(palloc0(sizeof(TimestampTz) * count));
    MemoryContextSwitchTo(caller);
    forget_all(history, pg::settings.action());
}

bool was_dealt_with(const History& history, const pg::BlockerIdentity& blocker,
                    core::SpareReason spared) {
    return history.dealt[blocker.procno] ==
           Dealt{blocker.pid, blocker.lxid, blocker.state_start, spared};
}

void remember(History* history, const pg::BlockerIdentity& blocker, core::SpareReason spared) {
    history->dealt[blocker.procno] = {blocker.pid, blocker.lxid, blocker.state_start, spared};
}

// ---- One look

/// A decision of the policy with everything that is to be said about it.
struct Case {
    core::BlockerDecision decision;
    core::Termination words;
    pg::EventNames names;
    pg::Event* event; // complete but for kind, reason and tree
};

/// What one look gathers. Everything is in the look's memory context.
struct Look {
    MemoryContext memory;
    TimestampTz now;
    pg::LockSnapshot snapshot;
    core::LockGraph graph;

    core::BlockedRequest* requests;
    const pg::SnapshotWait** request_waits; // parallel to requests
    std::size_t request_count;

    // All parallel to the snapshot's sessions. A session that holds nothing that a request waits
    // for has no status (null), and its facts say that it may not be ended.
    core::SessionFacts* facts;
    pg::BackendStatus** statuses;
    std::size_t session_count;

    core::Judgement judgement;

    // The drawing, made when it is first needed.
    std::span<const core::ForestRow> rows;
    core::TreeLabel* labels;
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

/// Is pg_lockguard.protected on in the session? What it does not say itself is as in the
/// configuration files, which this process reads as well.
bool is_protected(int procno, TimestampTz session_start) {
    switch (pg::protection_of(procno, session_start)) {
    case pg::Protection::on:
        return true;
    case pg::Protection::off:
        return false;
    case pg::Protection::as_server:
        break;
    }
    return pg::settings.protected_session;
}

/// Is the session stalled? Since when is a matter of looking twice: data that arrives changes the
/// status (the progress of COPY), and so does the next message of a statement.
void note_stall(const Look& look, const pg::SnapshotSession& session,
                const pg::BackendStatus& status, core::SessionFacts* facts, Stall* stall) {
    if (status.state != STATE_RUNNING || !pg::reads_from_client(session.procno))
        return;
    if (stall->pid != session.pid || stall->lxid != session.lxid ||
        stall->change_count != status.change_count || stall->since > look.now)
        *stall = {session.pid, session.lxid, status.change_count, look.now};
    facts->stalled = true;
    facts->stalled_since = stall->since;
}

/// Reads the status of one session. What the catalogs know of it is found out later (see
/// look_up_facts).
void read_facts(Look* look, core::SessionIndex index, History* history) {
    const pg::SnapshotSession& session = look->snapshot.sessions[index];
    core::SessionFacts* facts = &look->facts[index];
    if (session.pid == 0) {
        if (!TransactionIdIsValid(session.prepared_xid) || session.procno < 0)
            return;
        Stall* seen = &history->stalls[session.procno];
        if (seen->pid != 0 || seen->lxid != session.prepared_xid || seen->since > look->now)
            *seen = {0, session.prepared_xid, 0, look->now};
        facts->prepared = true;
        facts->state_start = seen->since;
        look->snapshot.core_sessions[index].xact_start = seen->since;
        return;
    }
    auto* status = static_cast<pg::BackendStatus*>(palloc(sizeof(pg::BackendStatus)));
    if (!pg::read_backend_status({session.procno, session.pid}, status))
        return;
    // The status is younger than the snapshot. It is about the same transaction only if that still
    // runs now.
    if (pg::compat::lxid_of(GetPGProcByNumber(session.procno)) != session.lxid)
        return;
    facts->client_backend = status->type == B_BACKEND;
    facts->replication = status->type == B_WAL_SENDER;
    facts->idle_in_transaction = pg::is_idle_in_transaction(status->state);
    facts->aborted = status->state == STATE_IDLEINTRANSACTION_ABORTED;
    facts->state_start = status->state_start;
    // Read after the status: an idle session has published it before it became idle.
    facts->protected_by_setting = is_protected(session.procno, status->proc_start);
    facts->exempt_application =
        core::matches_application(pg::settings.exempt_applications, status->application_name);
    note_stall(*look, session, *status, facts, &history->stalls[session.procno]);
    if (status->xact_start != 0)
        look->snapshot.core_sessions[index].xact_start = status->xact_start;
    look->statuses[index] = status;
}

/// Reads the status of the sessions that hold what a request waits for. Returns false where none of
/// them can come into question.
bool collect_facts(Look* look, History* history) {
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
            read_facts(look, edge.blocker, history);
            const core::SessionFacts& facts = look->facts[edge.blocker];
            any |= facts.idle_in_transaction || facts.stalled || facts.prepared;
        }
    }
    return any;
}

void judge(Look* look) {
    core::BlockerLimits limits = {
        static_cast<core::Microseconds>(pg::settings.blocker_min_idle) * 1000,
        static_cast<core::Microseconds>(pg::settings.blocker_min_wait) * 1000,
        pg::settings.blocker_stalled_clients,
    };
    look->now = GetCurrentTimestamp();
    look->judgement = pg::call_core(look->memory, [&](std::pmr::memory_resource& memory) {
        return core::judge_blockers(look->graph, {look->facts, look->session_count},
                                    {look->requests, look->request_count}, limits, look->now,
                                    memory);
    });
}

bool anything_to_do(const core::Judgement& judgement) {
    return !judgement.to_end.empty() || !judgement.to_spare.empty();
}

// ---- What the catalogs know. The caller has them open, in a transaction.

/// The elements of a list setting, whose check hook has accepted it.
List* names_in(const char* setting) {
    List* names = NIL;
    SplitIdentifierString(pstrdup(setting), ',', &names);
    return names;
}

/// The roles of pg_lockguard.exempt_roles. A name that does not exist protects nobody, which is
/// said once.
List* exempt_roles(History* history) {
    List* names = names_in(pg::settings.exempt_roles);
    List* roles = NIL;
    bool missing = false;
    for (int i = 0; i < list_length(names); i++) {
        const auto* name = static_cast<const char*>(list_nth(names, i));
        Oid role = get_role_oid(name, true);
        if (OidIsValid(role)) {
            roles = lappend_oid(roles, role);
            continue;
        }
        missing = true;
        if (!history->roles_reported)
            ereport(WARNING,
                    (errcode(ERRCODE_UNDEFINED_OBJECT),
                     errmsg("role \"%s\" of pg_lockguard.exempt_roles does not exist", name),
                     errhint("Correct the setting and reload: it protects nobody.")));
    }
    history->roles_reported |= missing;
    return roles;
}

bool is_member_of_any(Oid member, const List* roles) {
    for (int i = 0; i < list_length(roles); i++) {
        if (pg::is_member_of(member, list_nth_oid(roles, i)))
            return true;
    }
    return false;
}

bool is_named(const char* name, const List* names) {
    for (int i = 0; name != nullptr && i < list_length(names); i++) {
        if (strcmp(static_cast<const char*>(list_nth(names, i)), name) == 0)
            return true;
    }
    return false;
}

/// Completes the facts about those whom the first judgement names. Their authenticated role counts:
/// SET ROLE neither protects nor exposes.
void look_up_facts(Look* look, History* history, pg::NameLookup lookup) {
    const List* roles = exempt_roles(history);
    const List* databases = names_in(pg::settings.exempt_databases);
    auto complete = [&](const core::BlockerDecision& decision) {
        const pg::SnapshotSession& session = look->snapshot.sessions[decision.victim];
        core::SessionFacts* facts = &look->facts[decision.victim];
        if (!facts->client_backend)
            return;
        facts->superuser = superuser_arg(session.role);
        facts->exempt_role = is_member_of_any(session.role, roles);
        facts->exempt_database = is_named(
            pg::database_name(look->statuses[decision.victim]->database, lookup), databases);
    };
    for (const core::BlockerDecision& decision : look->judgement.to_end)
        complete(decision);
    for (const core::BlockerDecision& decision : look->judgement.to_spare)
        complete(decision);
}

std::string_view text_of(const char* text) {
    return text == nullptr ? std::string_view() : std::string_view(text);
}

pg::BlockerIdentity blocker_identity(const Look& look, const core::BlockerDecision& decision) {
    const pg::SnapshotSession& victim = look.snapshot.sessions[decision.victim];
    const core::SessionFacts& facts = look.facts[decision.victim];
    pg::BlockerIdentity blocker = {victim.procno, victim.pid, victim.lxid, facts.state_start};
    if (facts.prepared)
        blocker.lxid = victim.prepared_xid;
    const pg::BackendStatus* status = look.statuses[decision.victim];
    if (facts.stalled && status != nullptr) {
        blocker.stalled = true;
        blocker.change_count = status->change_count;
    }
    return blocker;
}

pg::RequestIdentity request_identity(const Look& look, const core::BlockerDecision& decision) {
    const pg::SnapshotWait& wait = *look.request_waits[decision.request];
    return {wait.procno, look.snapshot.sessions[wait.session].pid, wait.tag, wait.mode,
            wait.low_priority};
}

/// What the policy ended up with, in words and names.
Case describe(const Look& look, const core::BlockerDecision& decision, pg::NameLookup lookup) {
    const pg::SnapshotWait& wait = *look.request_waits[decision.request];
    const pg::SnapshotSession& victim = look.snapshot.sessions[decision.victim];
    const pg::SnapshotSession& blocked = look.snapshot.sessions[wait.session];
    const pg::BackendStatus* status = look.statuses[decision.victim];
    const core::SessionFacts& facts = look.facts[decision.victim];

    pg::BackendStatus blocked_status;
    bool blocked_known = pg::read_backend_status({blocked.procno, blocked.pid}, &blocked_status);
    const char* command = blocked_known ? pg::leading_command(blocked_status.query) : nullptr;

    Case result = {};
    result.decision = decision;
    core::Termination& words = result.words;
    words.victim_pid = victim.pid;
    words.prepared_xid = victim.prepared_xid;
    words.role = text_of(pg::role_name(victim.role, lookup));
    words.database =
        text_of(pg::database_name(status != nullptr ? status->database : victim.database, lookup));
    if (status != nullptr)
        words.application = status->application_name;
    words.aborted = facts.aborted;
    words.stalled = facts.stalled;
    words.idle = decision.idle;
    words.blocked_pid = blocked.pid;
    words.blocked_command = text_of(command);
    words.blocked_mode = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
    words.relation = wait.tag.locktag_field2;
    words.blocked_for = decision.blocked_for;
    words.others_blocked = decision.blocks > 0 ? decision.blocks - 1 : 0;

    auto* event = static_cast<pg::Event*>(palloc(sizeof(pg::Event)));
    pg::new_event(pg::EventKind::blocker_spared, event);
    event->pid = blocked.pid;
    event->role = blocked.role;
    event->database = blocked.database;
    if (blocked_known)
        pg::set_event_text(event->application, blocked_status.application_name);
    pg::set_event_text(event->command, words.blocked_command);
    event->relation_known = true;
    event->relation_database = wait.tag.locktag_field1;
    event->relation = wait.tag.locktag_field2;
    event->lock_mode = wait.mode;
    event->waited = Max(look.now - wait.wait_start, 0);
    event->has_blocker = true;
    event->blocker_pid = victim.pid;
    event->blocker_role = victim.role;
    event->blocker_idle = decision.idle;
    if (status != nullptr) {
        pg::set_event_text(event->blocker_application, status->application_name);
        event->blocker_state = status->state;
        pg::set_event_text(event->blocker_query, status->query);
    }
    result.event = event;
    result.names.database = text_of(pg::database_name(blocked.database, lookup));
    result.names.role = text_of(pg::role_name(blocked.role, lookup));
    result.names.blocker_role = words.role;
    return result;
}

/// The cases of a look: first those to end, then those to spare.
struct Cases {
    Case* cases; // null where the catalogs can't be read without waiting for a lock
    std::size_t to_end;
    std::size_t count;
};

/// Judges again, knowing what the catalogs know, and puts what is left into words. Where they can't
/// be read now, it is for the next look.
Cases judge_with_catalogs(Look* look, History* history) {
    Cases result = {};
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    MemoryContextSwitchTo(look->memory);
    pg::NameLookup lookup = pg::open_name_lookup();
    if (lookup.globals && lookup.memberships) {
        look_up_facts(look, history, lookup);
        judge(look);
        const core::Judgement& judgement = look->judgement;
        result.to_end = judgement.to_end.size();
        result.count = result.to_end + judgement.to_spare.size();
        result.cases = static_cast<Case*>(palloc((result.count + 1) * sizeof(Case)));
        for (std::size_t i = 0; i < result.count; i++)
            result.cases[i] = describe(*look,
                                       i < result.to_end ? judgement.to_end[i]
                                                         : judgement.to_spare[i - result.to_end],
                                       lookup);
    }
    pg::close_name_lookup(lookup);
    CommitTransactionCommand();
    MemoryContextSwitchTo(look->memory);
    pgstat_report_stat(true);
    return result;
}

// ---- Telling

using Words = std::string_view (*)(const core::Termination&, std::pmr::memory_resource&);

const char* in_words(const Look& look, Words words, const core::Termination& termination) {
    std::string_view text = pg::call_core(
        look.memory, [&](std::pmr::memory_resource& memory) { return words(termination, memory); });
    return text.data();
}

/// What stands in the drawing behind a session.
core::TreeLabel label_of(const Look& look, core::SessionIndex index) {
    const pg::SnapshotSession& session = look.snapshot.sessions[index];
    core::TreeLabel label = {};
    if (session.pid == 0)
        label.gid = psprintf("transaction %u", session.prepared_xid);
    label.waited = -1;
    pg::BackendStatus status;
    if (session.pid != 0 && pg::read_backend_status({session.procno, session.pid}, &status))
        label.application = status.application_name;
    if (session.first_wait >= 0) {
        const pg::SnapshotWait& wait = look.snapshot.waits[session.first_wait];
        if (!wait.safe_snapshot) {
            label.wants = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
            label.object = pg::locked_object_text(wait.tag, {});
            label.waited = Max(look.now - wait.wait_start, 0);
        }
    }
    return label;
}

/// Draws the whole forest of the look, once.
void draw(Look* look) {
    if (look->labels != nullptr)
        return;
    look->rows = pg::call_core(look->memory, [look](std::pmr::memory_resource& memory) {
        return core::grow_lock_forest(look->graph, memory);
    });
    look->labels =
        static_cast<core::TreeLabel*>(palloc0(look->session_count * sizeof(*look->labels)));
    for (std::size_t i = 0; i < look->session_count; i++)
        look->labels[i].waited = -1;
}

/// Puts the tree that the victim is in into the event. Only the rows that fit need their labels.
void set_tree(Look* look, core::SessionIndex victim, pg::Event* event) {
    constexpr int kLabeledRows = 100;
    draw(look);
    core::SessionIndex root = victim;
    for (const core::ForestRow& row : look->rows) {
        if (row.session == victim)
            root = row.root;
    }
    int labeled = 0;
    for (const core::ForestRow& row : look->rows) {
        if (row.root == root && labeled++ < kLabeledRows)
            look->labels[row.session] = label_of(*look, row.session);
    }
    std::string_view text = pg::call_core(look->memory, [&](std::pmr::memory_resource& memory) {
        return core::lock_tree_text(look->rows, {look->labels, look->session_count}, victim,
                                    sizeof(event->lock_tree) - 1, memory);
    });
    pg::set_event_text(event->lock_tree, text);
}

void record(Look* look, const Case& c, pg::EventKind kind, std::string_view reason) {
    c.event->kind = kind;
    pg::set_event_text(c.event->reason, reason);
    set_tree(look, c.decision.victim, c.event);
    pg::record_event(c.event, c.names);
}

pg::Counter counter_of(core::SpareReason reason) {
    static_assert(static_cast<int>(core::SpareReason::stalled_client) + 1 == core::kSpareReasons);
    static_assert(static_cast<int>(pg::Counter::spared_stalled) -
                      static_cast<int>(pg::Counter::spared_prepared) ==
                  static_cast<int>(core::SpareReason::stalled_client) -
                      static_cast<int>(core::SpareReason::prepared_transaction));
    return static_cast<pg::Counter>(static_cast<int>(pg::Counter::spared_prepared) +
                                    static_cast<int>(reason) -
                                    static_cast<int>(core::SpareReason::prepared_transaction));
}

// ---- Acting

/// Says whom the policy spares, once for each state of the session.
void spare(Look* look, const Case& c, History* history) {
    pg::BlockerIdentity blocker = blocker_identity(*look, c.decision);
    core::SpareReason reason = c.decision.spared;
    if (was_dealt_with(*history, blocker, reason))
        return;
    remember(history, blocker, reason);
    pg::count(counter_of(reason));
    std::string_view text = core::spare_reason_text(reason);
    const char* told = text.data();
    if (reason == core::SpareReason::prepared_transaction)
        told = psprintf("transaction %u of pg_prepared_xacts: %s", blocker.lxid, told);
    record(look, c, pg::EventKind::blocker_spared, told);
    ereport(LOG, (errmsg("pg_lockguard: spared %s: %s",
                         in_words(*look, core::termination_log_line, c.words), text.data())));
}

/// Microseconds of a clock that never goes backwards.
core::Microseconds steady_now() {
    instr_time now;
    INSTR_TIME_SET_CURRENT(now);
    return static_cast<core::Microseconds>(pg::compat::nanoseconds(now) / 1000);
}

/// Does a fuse hold? Then that is said, once until it lets somebody pass, or for each request.
bool fuse_holds(Look* look, const Case& c, History* history) {
    const pg::RequestIdentity request = request_identity(*look, c.decision);
    const pg::SnapshotWait& wait = *look->request_waits[c.decision.request];
    const pg::WorkerFuses* fuses = pg::worker_fuses(history->rehearses());
    const auto limit = static_cast<uint32>(pg::settings.max_terminations_per_minute);
    const core::Microseconds now = steady_now();
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
                 "another session was ended for the same request less than "
                 "pg_lockguard.blocker_min_wait (%d ms) ago",
                 pg::settings.blocker_min_wait);
    } else {
        history->fuse_reported = false;
        return false;
    }
    pg::count(pg::Counter::fuses_blown);
    record(look, c, pg::EventKind::fuse_blown, reason);
    ereport(LOG, (errmsg("pg_lockguard: a fuse holds: %s", reason),
                  errdetail_log("Not ended for now: %s.",
                                in_words(*look, core::termination_log_line, c.words))));
    return true;
}

void note_fuses(const Look& look, const Case& c, const History& history) {
    const pg::RequestIdentity request = request_identity(look, c.decision);
    pg::WorkerFuses* fuses = pg::worker_fuses(history.rehearses());
    core::Microseconds now = steady_now();
    core::note_termination(fuses->terminations, now);
    fuses->requests[request.procno] = {request.pid,
                                       look.request_waits[c.decision.request]->wait_start, now};
}

void watch(History* history, const pg::BlockerIdentity& blocker, const pg::RequestIdentity& request,
           const pg::Event& event) {
    if (history->rehearsal_count == kMostRehearsals)
        forget_rehearsal(history, 0);
    auto* copy = static_cast<pg::Event*>(MemoryContextAlloc(TopMemoryContext, sizeof(pg::Event)));
    *copy = event;
    history->rehearsals[history->rehearsal_count++] = {blocker, request, copy};
}

/// One at a time: the check, the signal, the line in the log. A session that has been sent SIGTERM
/// and is still there has not got round to it yet: it is neither signaled nor logged again.
void end(Look* look, const Case& c, History* history) {
    pg::BlockerIdentity blocker = blocker_identity(*look, c.decision);
    pg::RequestIdentity request = request_identity(*look, c.decision);
    if (was_dealt_with(*history, blocker, core::SpareReason::none) || fuse_holds(look, c, history))
        return;

    const char* line = in_words(*look, core::termination_log_line, c.words);
    pg::TerminationResult result =
        history->rehearses() ? pg::rehearse_termination(blocker, request)
                             : pg::terminate_blocker(blocker, request,
                                                     in_words(*look, core::victim_detail, c.words));
    if (result != pg::TerminationResult::signaled) {
        const char* reason = pg::termination_result_text(result);
        pg::count(pg::Counter::spared_changed);
        record(look, c, pg::EventKind::blocker_spared, reason);
        ereport(DEBUG1,
                (errmsg_internal("pg_lockguard: PID %d is left alone: %s", blocker.pid, reason)));
        return;
    }
    remember(history, blocker, core::SpareReason::none);
    note_fuses(*look, c, *history);
    if (history->rehearses()) {
        pg::count(pg::Counter::rehearsals);
        record(look, c, pg::EventKind::blocker_logged, {});
        watch(history, blocker, request, *c.event);
        ereport(LOG, (errmsg("pg_lockguard: would terminate %s", line)));
    } else {
        pg::count(pg::Counter::terminations);
        record(look, c, pg::EventKind::blocker_terminated, {});
        ereport(LOG, (errmsg("pg_lockguard: terminated %s", line)));
    }
}

/// The steps of a look, in the order given at the top. Returns in how many microseconds somebody
/// will be due; negative for nobody.
core::Microseconds look_and_act(MemoryContext context, History* history) {
    Look look = {};
    look.memory = context;
    look.now = GetCurrentTimestamp();
    if (!pg::take_lock_snapshot(&look.snapshot))
        return -1;
    collect_requests(&look);
    if (look.request_count == 0)
        return -1;
    build_graph(&look);
    if (!collect_facts(&look, history))
        return -1;
    judge(&look);
    if (!anything_to_do(look.judgement))
        return look.judgement.next_due;
    Cases cases = judge_with_catalogs(&look, history);
    if (cases.cases == nullptr) {
        ereport(DEBUG1, (errmsg_internal(
                            "pg_lockguard: roles can't be looked up without waiting for a lock")));
        return -1;
    }
    for (std::size_t i = 0; i < cases.to_end; i++)
        end(&look, cases.cases[i], history);
    for (std::size_t i = cases.to_end; i < cases.count; i++)
        spare(&look, cases.cases[i], history);
    return look.judgement.next_due;
}

// ---- The end of a rehearsal

/// In words that follow "event 12: ".
const char* outcome_text(pg::Outcome outcome) {
    switch (outcome) {
    case pg::Outcome::still_blocks:
        return "it still blocks";
    case pg::Outcome::transaction_over:
        return "it ended its transaction by itself";
    case pg::Outcome::went_on:
        return "it went on by itself";
    case pg::Outcome::lock_released:
        return "it released the lock by itself";
    case pg::Outcome::request_gone:
        return "the request that it blocked was given up";
    }
    return "";
}

/// Records the sessions that would have been ended and have ceased to block since.
void review_rehearsals(MemoryContext context, History* history) {
    TimestampTz now = GetCurrentTimestamp();
    for (int i = history->rehearsal_count - 1; i >= 0; i--) {
        const Rehearsal& rehearsal = history->rehearsals[i];
        pg::Outcome outcome = pg::outcome_of(rehearsal.blocker, rehearsal.request);
        if (outcome == pg::Outcome::still_blocks)
            continue;
        if (outcome != pg::Outcome::request_gone)
            pg::count(pg::Counter::rehearsals_needless);
        pg::Event event = *rehearsal.event;
        core::Microseconds since = Max(now - event.at, 0);
        std::string_view duration =
            pg::call_core(context, [since](std::pmr::memory_resource& memory) {
                return core::duration_text(since, memory);
            });
        event.kind = pg::EventKind::blocker_resolved;
        snprintf(event.reason, sizeof(event.reason), "event " INT64_FORMAT ": %s after %s",
                 event.id, outcome_text(outcome), duration.data());
        event.waited += since;
        event.blocker_idle += since;
        event.lock_tree[0] = '\0';
        forget_rehearsal(history, i);
        pg::record_event(&event, {});
        ereport(LOG, (errmsg("pg_lockguard: PID %d, which would have been terminated: %s after %s",
                             event.blocker_pid, outcome_text(outcome), duration.data())));
    }
}

// ---- The process

void reload_configuration(History* history) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    history->roles_reported = false;
    pg::BlockerAction action = pg::settings.action();
    if (action != history->action)
        forget_all(history, action);
}

/// Looks, where there is something to look for. Returns as look_and_act().
core::Microseconds look(MemoryContext context, History* history) {
    core::Microseconds next_due = -1;
    bool done = false;
    MemoryContextSwitchTo(context);
    pg::run_guarded(
        [&] {
            pg::count(pg::Counter::looks);
            if (history->rehearsal_count > 0)
                review_rehearsals(context, history);
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

/// Sleeps until the next look is due, or somebody wakes us; until somebody wakes us, where there is
/// nothing to look for.
void sleep_until_next_look(pg::BlockerAction action, core::Microseconds next_due,
                           uint32 wait_event) {
    if (action == pg::BlockerAction::off) {
        WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, wait_event);
        ResetLatch(MyLatch);
        return;
    }
    // First without the latch: however many wake us, they share one look.
    WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, kShortestGap, wait_event);
    long rest = pg::settings.worker_interval;
    if (next_due >= 0 && next_due / 1000 < rest)
        rest = static_cast<long>(next_due / 1000) + 1;
    rest -= kShortestGap;
    if (rest > 0)
        WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, rest, wait_event);
    ResetLatch(MyLatch);
}

[[noreturn]] void run() {
    uint32 wait_event = pg::compat::new_wait_event("PgLockguardWorker");
    MemoryContext look_context =
        AllocSetContextCreate(TopMemoryContext, "pg_lockguard look", ALLOCSET_DEFAULT_SIZES);
    auto* history = static_cast<History*>(MemoryContextAlloc(TopMemoryContext, sizeof(History)));
    begin_history(history);
    pg::announce_worker();

    while (!ShutdownRequestPending) {
        CHECK_FOR_INTERRUPTS();
        if (ConfigReloadPending)
            reload_configuration(history);
        core::Microseconds next_due = -1;
        if (history->action != pg::BlockerAction::off)
            next_due = look(look_context, history);
        sleep_until_next_look(history->action, next_due, wait_event);
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
