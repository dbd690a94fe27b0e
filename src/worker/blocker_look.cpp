#include "worker/blocker_look.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/request_modes.h"
#include "boundary/settings.h"
#include "sessions/command_text.h"
#include "sessions/exemptions.h"
#include "sessions/object_names.h"
#include "sessions/statement_cancel.h"
#include "shmem/wait_board.h"

namespace lockguard::pg {

namespace {

// ---- Who waits, and who is in the way

/// Who is that? Of a process whose status can't be read nothing is known: its request does not
/// count for now.
core::Requester requester_of(const SnapshotSession& session) {
    BackendStateOnly state;
    if (!read_backend_state(session.id, &state) || state.type == B_STARTUP)
        return core::Requester::exempt;
    return state.type == B_BACKEND ? core::Requester::client : core::Requester::background;
}

/// Does it wait for a transaction to end, as CREATE INDEX CONCURRENTLY and the like do? Nothing
/// else of PostgreSQL's stands in the queue of a virtual transaction id, but of ours a statement
/// that waits at low priority sleeps there.
bool waits_for_transaction(const SnapshotWait& wait) {
    LowPriorityWait sleeper;
    return wait.tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION && !wait.low_priority &&
           !read_low_priority_wait(wait.procno, &sleeper);
}

/// Is it a wait that may count?
bool is_request(const SnapshotWait& wait) {
    if (wait.safe_snapshot)
        return false;
    if (wait.tag.locktag_type == LOCKTAG_RELATION)
        return (counting_request_modes() & core::mode_bit(wait.mode)) != 0;
    return settings.blocker_concurrently && waits_for_transaction(wait);
}

/// Collects the waits that may count.
void collect_requests(BlockerLook* look) {
    const LockSnapshot& snapshot = look->snapshot;
    auto room = static_cast<std::size_t>(snapshot.wait_count);
    look->requests = new_array<core::BlockedRequest>(room);
    look->request_waits = new_array<const SnapshotWait*>(room);
    look->request_count = 0;
    for (int i = 0; i < snapshot.wait_count; i++) {
        const SnapshotWait& wait = snapshot.waits[i];
        if (!is_request(wait))
            continue;
        const SnapshotSession& session = snapshot.sessions[wait.session];
        if (session.id.procno != wait.procno)
            continue; // a parallel worker never asks for it; its own pid is not in the snapshot
        bool for_transaction = wait.tag.locktag_type != LOCKTAG_RELATION;
        look->requests[look->request_count] = {wait.session,
                                               for_transaction ? InvalidOid
                                                               : wait.tag.locktag_field2,
                                               wait.mode,
                                               wait.wait_start,
                                               requester_of(session),
                                               for_transaction};
        look->request_waits[look->request_count] = &wait;
        look->request_count++;
    }
}

/// Is the session stalled? Since when is a matter of looking twice: data that arrives changes the
/// status (the progress of COPY), and so does the next message of a statement.
void note_stall(const BlockerLook& look, const SnapshotSession& session,
                const BackendStatus& status, core::SessionFacts* facts, Stall* stall) {
    if (status.state != STATE_RUNNING || !reads_from_client(session.id.procno))
        return;
    if (stall->session != session.id || stall->change_count != status.change_count ||
        stall->since > look.now)
        *stall = {session.id, status.change_count, look.now};
    facts->stalled = true;
    facts->stalled_since = stall->since;
}

/// Reads the status of one session. What the catalogs know of it is found out later (see
/// look_up_facts).
void read_facts(BlockerLook* look, core::SessionIndex index, LookMemory* earlier) {
    const SnapshotSession& session = look->snapshot.sessions[index];
    core::SessionFacts* facts = &look->facts[index];
    if (session.id.pid == 0) {
        if (!TransactionIdIsValid(session.prepared_xid) || session.id.procno < 0)
            return;
        Stall* seen = &earlier->stalls[session.id.procno];
        const SessionId prepared = {session.id.procno, 0, session.prepared_xid};
        if (seen->session != prepared || seen->since > look->now)
            *seen = {prepared, 0, look->now};
        facts->prepared = true;
        facts->state_start = seen->since;
        facts->xact_start = seen->since;
        return;
    }
    auto* status = new_object<BackendStatus>();
    if (!read_backend_status(session.id, status))
        return;
    // The status is younger than the snapshot. It is about the same transaction only if that still
    // runs now.
    if (compat::lxid_of(GetPGProcByNumber(session.id.procno)) != session.id.lxid)
        return;
    facts->client_backend = status->type == B_BACKEND;
    facts->replication = status->type == B_WAL_SENDER;
    facts->idle_in_transaction = is_idle_in_transaction(status->state);
    facts->aborted = status->state == STATE_IDLEINTRANSACTION_ABORTED;
    facts->active = is_active(status->state);
    facts->committing = waits_for_standbys(session.id.procno);
    facts->state_start = status->state_start;
    note_stall(*look, session, *status, facts, &earlier->stalls[session.id.procno]);
    if (status->xact_start != 0)
        facts->xact_start = status->xact_start;
    look->statuses[index] = status;
}

/// Where a background process makes a request, it is asked which of those who wait are clients.
void find_waiting_clients(BlockerLook* look) {
    bool background = false;
    for (std::size_t i = 0; i < look->request_count; i++)
        background |= look->requests[i].requester == core::Requester::background;
    for (int i = 0; background && i < look->snapshot.wait_count; i++) {
        const SnapshotWait& wait = look->snapshot.waits[i];
        const SnapshotSession& session = look->snapshot.sessions[wait.session];
        BackendStateOnly state;
        if (!wait.safe_snapshot && session.id.pid != 0 && read_backend_state(session.id, &state))
            look->facts[wait.session].waiting_client = state.type == B_BACKEND;
    }
}

/// Reads the status of the sessions that hold what a request waits for. Returns false where none of
/// them can come into question.
bool collect_facts(BlockerLook* look, LookMemory* earlier) {
    look->session_count = look->graph.sessions.size();
    look->facts = new_array<core::SessionFacts>(look->session_count);
    std::fill_n(look->facts, look->session_count, core::SessionFacts{});
    look->statuses = new_zeroed_array<BackendStatus*>(look->session_count);
    find_waiting_clients(look);
    bool any = false;
    for (std::size_t i = 0; i < look->request_count; i++) {
        for (const core::Edge& edge : look->graph.blockers_of(look->requests[i].session)) {
            if (!edge.holds || look->statuses[edge.blocker] != nullptr)
                continue;
            read_facts(look, edge.blocker, earlier);
            const core::SessionFacts& facts = look->facts[edge.blocker];
            any |= facts.idle_in_transaction || facts.stalled || facts.prepared ||
                   (facts.active && settings.active_action() != BlockerActiveAction::off);
        }
    }
    return any;
}

void judge(BlockerLook* look) {
    auto microseconds = [](int milliseconds) { return core::Microseconds{milliseconds} * 1000; };
    core::BlockerLimits limits = {
        .min_idle = microseconds(settings.blocker_min_idle),
        .min_wait = microseconds(settings.blocker_min_wait),
        .stalled_clients = settings.blocker_stalled_clients,
        .request_modes = counting_request_modes(),
        .concurrently = settings.blocker_concurrently,
        .end_idle = settings.action() != BlockerAction::off,
        .cancel_active = settings.active_action() != BlockerActiveAction::off,
        .min_active = microseconds(settings.blocker_min_active),
    };
    look->now = GetCurrentTimestamp();
    look->judgement = call_core(look->memory, [&](std::pmr::memory_resource& memory) {
        return core::judge_blockers(look->graph, {look->facts, look->session_count},
                                    {look->requests, look->request_count}, limits, look->now,
                                    memory);
    });
}

// ---- What the catalogs know. The caller has them open, in a transaction.

/// Completes the facts about those whom the first judgement names. All of it is asked after the
/// session's state was read, and its state is compared once more before it is signaled
/// (worker/last_check): so it has not exported a snapshot, or been protected, in between.
void look_up_facts(BlockerLook* look, LookMemory* earlier, NameLookup lookup) {
    Assert(IsTransactionState());
    ExemptionLists lists = read_exemption_lists(!earlier->names_reported);
    earlier->names_reported |= lists.name_missing;
    auto complete = [&](const core::BlockerDecision& decision) {
        const SnapshotSession& session = look->snapshot.sessions[decision.victim];
        core::SessionFacts* facts = &look->facts[decision.victim];
        if (!facts->client_backend)
            return;
        facts->superuser = superuser_arg(session.role);
        find_exemptions(session.id, session.role, *look->statuses[decision.victim], lists, lookup,
                        facts);
    };
    for (const core::BlockerDecision& decision : look->judgement.to_end)
        complete(decision);
    for (const core::BlockerDecision& decision : look->judgement.to_spare)
        complete(decision);
}

std::string_view text_of(const char* text) {
    return text == nullptr ? std::string_view() : std::string_view(text);
}

/// What kind of process it is. A background worker names its kind itself, in whatever bytes; what
/// is no printable ASCII is shown as a question mark.
const char* kind_of_process(BackendType type, int pid) {
    const char* name = backend_type_name(type, pid);
    char* kind = pstrdup(name == nullptr ? "unknown" : name);
    for (char* c = kind; *c != '\0'; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    return kind;
}

/// What the policy ended up with, in words and names.
BlockerCase describe(const BlockerLook& look, const core::BlockerDecision& decision,
                     NameLookup lookup) {
    const SnapshotWait& wait = *look.request_waits[decision.request];
    const SnapshotSession& victim = look.snapshot.sessions[decision.victim];
    const SnapshotSession& blocked = look.snapshot.sessions[wait.session];
    const BackendStatus* status = look.statuses[decision.victim];
    const core::SessionFacts& facts = look.facts[decision.victim];

    BackendStatus blocked_status;
    const char* requester = nullptr;
    bool blocked_known = read_backend_status(blocked.id, &blocked_status);
    if (decision.spared == core::SpareReason::no_client_waits)
        requester =
            blocked_known ? kind_of_process(blocked_status.type, blocked.id.pid) : "unknown";
    const char* command = blocked_known ? leading_command(blocked_status.query) : nullptr;

    BlockerCase result = {};
    result.decision = decision;
    result.requester = requester;
    core::Termination& words = result.words;
    words.victim_pid = victim.id.pid;
    words.prepared_xid = victim.prepared_xid;
    words.role = text_of(role_name(victim.role, lookup));
    words.database =
        text_of(database_name(status != nullptr ? status->database : victim.database, lookup));
    if (status != nullptr)
        words.application = status->application_name;
    words.aborted = facts.aborted;
    words.active = decision.remedy == core::BlockerRemedy::cancel;
    words.stalled = facts.stalled && !words.active;
    words.idle = decision.idle;
    words.blocked_pid = blocked.id.pid;
    words.blocked_command = text_of(command);
    words.blocked_mode = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
    words.relation = look.requests[decision.request].relation;
    words.blocked_for = decision.blocked_for;
    words.others_blocked = decision.blocks > 0 ? decision.blocks - 1 : 0;

    auto* event = new_object<Event>();
    new_event(EventKind::blocker_spared, event);
    event->pid = blocked.id.pid;
    event->role = blocked.role;
    event->database = blocked.database;
    if (blocked_known)
        set_event_text(event->application, blocked_status.application_name);
    set_event_text(event->command, words.blocked_command);
    if (words.relation != InvalidOid) {
        event->relation_known = true;
        event->relation_database = wait.tag.locktag_field1;
        event->relation = words.relation;
    }
    event->lock_mode = wait.mode;
    event->waited = std::max<core::Microseconds>(core::age(wait.wait_start, look.now), 0);
    event->has_blocker = true;
    event->blocker_pid = victim.id.pid;
    event->blocker_role = victim.role;
    event->blocker_idle = words.active ? -1 : decision.idle;
    if (status != nullptr) {
        set_event_text(event->blocker_application, status->application_name);
        event->blocker_state = status->state;
        set_event_text(event->blocker_query, status->query);
    }
    result.event = event;
    result.names.database = text_of(database_name(blocked.database, lookup));
    result.names.role = text_of(role_name(blocked.role, lookup));
    result.names.blocker_role = words.role;
    return result;
}

/// Names a client that waits behind a request, where there is one.
void set_client_behind(const BlockerLook& look, core::SessionIndex requester,
                       RequestIdentity* request) {
    auto* marks = new_array<bool>(look.session_count);
    core::mark_waiters_behind(look.graph, requester, {marks, look.session_count});
    for (std::size_t i = 0; i < look.session_count; i++) {
        const SnapshotSession& session = look.snapshot.sessions[i];
        if (i == requester || !marks[i] || !look.facts[i].waiting_client || session.first_wait < 0)
            continue;
        request->client_procno = look.snapshot.waits[session.first_wait].procno;
        request->client_pid = session.id.pid;
        break;
    }
    pfree(marks);
}

} // namespace

bool look_for_blockers(MemoryContext memory, LookMemory* earlier, BlockerLook* look) {
    *look = {};
    look->memory = memory;
    look->now = GetCurrentTimestamp();
    if (!take_wait_graph(look))
        return false;
    collect_requests(look);
    if (look->request_count == 0)
        return false;
    if (!collect_facts(look, earlier))
        return false;
    judge(look);
    return true;
}

void check_exempt_names(MemoryContext memory, LookMemory* earlier) {
    if (earlier->names_checked)
        return;
    Assert(!IsTransactionState());
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    NameLookup lookup = open_name_lookup();
    if (exemptions_can_be_read(lookup)) {
        earlier->names_checked = true; // also if it fails: once is enough for that, too
        earlier->names_reported = read_exemption_lists(true).name_missing;
    }
    close_name_lookup(lookup);
    CommitTransactionCommand();
    MemoryContextSwitchTo(memory);
}

BlockerCases judge_with_catalogs(BlockerLook* look, LookMemory* earlier) {
    Assert(!IsTransactionState());
    BlockerCases result = {};
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    MemoryContextSwitchTo(look->memory);
    NameLookup lookup = open_name_lookup();
    if (exemptions_can_be_read(lookup)) {
        look_up_facts(look, earlier, lookup);
        judge(look);
        const core::Judgement& judgement = look->judgement;
        result.to_end = judgement.to_end.size();
        result.count = result.to_end + judgement.to_spare.size();
        result.cases = new_array<BlockerCase>(result.count);
        for (std::size_t i = 0; i < result.count; i++)
            result.cases[i] = describe(*look,
                                       i < result.to_end ? judgement.to_end[i]
                                                         : judgement.to_spare[i - result.to_end],
                                       lookup);
    }
    close_name_lookup(lookup);
    CommitTransactionCommand();
    MemoryContextSwitchTo(look->memory);
    pgstat_report_stat(true);
    return result;
}

BlockerIdentity blocker_identity(const BlockerLook& look, const core::BlockerDecision& decision) {
    const SnapshotSession& victim = look.snapshot.sessions[decision.victim];
    const core::SessionFacts& facts = look.facts[decision.victim];
    BlockerIdentity blocker = {victim.id, facts.state_start};
    blocker.active = decision.remedy == core::BlockerRemedy::cancel;
    if (facts.prepared)
        blocker.session.lxid = victim.prepared_xid;
    const BackendStatus* status = look.statuses[decision.victim];
    if (facts.stalled && !blocker.active && status != nullptr) {
        blocker.stalled = true;
        blocker.change_count = status->change_count;
    }
    return blocker;
}

RequestIdentity request_identity(const BlockerLook& look, const core::BlockerDecision& decision) {
    const SnapshotWait& wait = *look.request_waits[decision.request];
    RequestIdentity request = {wait.procno, look.snapshot.sessions[wait.session].id.pid, wait.tag,
                               wait.mode, wait.low_priority};
    if (look.requests[decision.request].requester == core::Requester::background)
        set_client_behind(look, wait.session, &request);
    return request;
}

} // namespace lockguard::pg
