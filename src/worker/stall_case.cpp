#include "worker/stall_case.h"

#include "core/blocker_policy.h"

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/settings.h"
#include "sessions/backend_status.h"
#include "sessions/exemptions.h"
#include "sessions/object_names.h"
#include "worker/look_drawing.h"
#include "worker/named_event.h"

namespace lockguard::pg {

namespace {

core::Stall stall_of(const StallCase& c) {
    const SnapshotWait& wait = awaited_wait(c);
    core::Stall stall = {};
    stall.kind = c.kind;
    stall.command = GetCommandTagName(c.session.command);
    stall.sessions = c.kept.sessions;
    stall.longest = c.kept.longest;
    stall.lock_mode = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
    stall.object = locked_object_text(wait.tag, {});
    stall.limit = c.session.max_stall * core::kMillisecond;
    return stall;
}

/// The whole tree that the session is in.
void draw_tree(const StallCase& c, Event* event) {
    BlockerLook look = {};
    look.memory = CurrentMemoryContext;
    look.now = c.taken_at;
    look.snapshot = *c.snapshot;
    look.graph = call_core(look.memory, [&look](std::pmr::memory_resource& memory) {
        return core::build_lock_graph(look.snapshot.table, memory);
    });
    look.session_count = look.snapshot.table.sessions.size();
    look.facts = new_zeroed_array<core::SessionFacts>(look.session_count);
    for (std::size_t i = 0; i < look.session_count; i++)
        look.facts[i].xact_start = core::kUnknownTime;
    set_tree(&look, c.index, event);
}

/// What the catalogs say. The caller has them open.
const char* spared_by_catalogs(const StallCase& c, const BackendStatus& status, NameLookup lookup) {
    Assert(IsTransactionState());
    const SnapshotSession& session = c.snapshot->sessions[c.index];
    core::SessionFacts facts = {};
    facts.client_backend = status.type == B_BACKEND;
    facts.replication = status.type == B_WAL_SENDER;
    facts.idle_in_transaction = is_idle_in_transaction(status.state);
    if (facts.client_backend) {
        facts.superuser = superuser_arg(session.role);
        find_exemptions(session.id, session.role, status, read_exemption_lists(false), lookup,
                        &facts);
    }
    const core::SpareReason reason = core::spare_reason(
        facts, {.stalled_clients = settings.blocker_stalled_clients}, core::BlockerRemedy::end);
    return reason == core::SpareReason::none ? nullptr : core::spare_reason_text(reason).data();
}

} // namespace

const SnapshotWait& awaited_wait(const StallCase& c) {
    return c.snapshot->waits[c.kept.wait];
}

StallReport report_of(const StallCase& c) {
    const SnapshotWait& wait = awaited_wait(c);
    return {c.kept.sessions, c.kept.longest, wait.tag, wait.mode, 0, {}, NoLock};
}

const char* stall_words(const StallCase& c, StallWords words) {
    const core::Stall stall = stall_of(c);
    return call_core(CurrentMemoryContext,
                     [&](std::pmr::memory_resource& memory) {
                         switch (words) {
                         case StallWords::hint:
                             return core::stall_hint(stall, memory);
                         case StallWords::victim_detail:
                             return core::stall_victim_detail(stall, memory);
                         default:
                             return core::stall_detail(stall, memory);
                         }
                     })
        .data();
}

Event* new_stall_event(const StallCase& c, EventKind kind) {
    const SnapshotSession& waiter = c.snapshot->sessions[c.kept.waiter];
    const SnapshotWait& wait = awaited_wait(c);
    auto* event = new_object<Event>();
    new_event(kind, event);
    event->pid = waiter.id.pid;
    event->role = waiter.role;
    event->database = waiter.database;
    BackendStatus status;
    if (read_backend_status(waiter.id, &status))
        set_event_text(event->application, status.application_name);
    if (wait.tag.locktag_type == LOCKTAG_RELATION) {
        event->relation_known = true;
        event->relation_database = wait.tag.locktag_field1;
        event->relation = wait.tag.locktag_field2;
    }
    event->lock_mode = wait.mode;
    event->waited = c.kept.longest;
    event->stall = c.kept.longest;
    set_event_blocker(event, c.procno, c.session.pid);
    set_event_text(event->command, GetCommandTagName(c.session.command));
    draw_tree(c, event);
    return event;
}

void record_stall(Event* event, const char* reason) {
    set_event_text(event->reason, reason);
    record_with_names(event);
}

void record_stall(const StallCase& c, EventKind kind, const char* reason) {
    record_stall(new_stall_event(c, kind), reason);
}

const char* why_stall_is_spared(const StallCase& c) {
    MemoryContext memory = CurrentMemoryContext;
    const char* reason = "whether it is exempt can't be looked up now";
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    MemoryContextSwitchTo(memory);
    NameLookup lookup = open_name_lookup();
    BackendStatus status;
    if (!read_backend_status({c.procno, c.session.pid}, &status))
        reason = "it has just ended";
    else if (exemptions_can_be_read(lookup))
        reason = spared_by_catalogs(c, status, lookup);
    close_name_lookup(lookup);
    CommitTransactionCommand();
    MemoryContextSwitchTo(memory);
    pgstat_report_stat(true);
    return reason;
}

} // namespace lockguard::pg
