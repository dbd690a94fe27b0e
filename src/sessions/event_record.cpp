#include "sessions/event_record.h"

#include "core/words/events.h"
#include "boundary/bridge.h"
#include "boundary/settings.h"
#include "sessions/backend_status.h"
#include "sessions/event_folds.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

namespace {

/// Something was done to a session, would have been done, or was not allowed any more.
bool is_action(EventKind kind) {
    switch (kind) {
    case EventKind::ddl_blocker_terminated:
    case EventKind::blocker_logged:
    case EventKind::blocker_terminated:
    case EventKind::blocker_cancel_logged:
    case EventKind::blocker_cancelled:
    case EventKind::blocker_not_freed:
    case EventKind::fuse_blown:
    case EventKind::stall_cancelled:
    case EventKind::stall_logged:
    case EventKind::stall_terminated:
        return true;
    default:
        return false;
    }
}

bool is_to_be_logged(EventKind kind) {
    switch (settings.logged_events()) {
    case LoggedEvents::none:
        return false;
    case LoggedEvents::actions:
        return is_action(kind);
    case LoggedEvents::all:
        return true;
    }
    return false;
}

std::string_view text_of(const char* name) {
    return name == nullptr ? std::string_view() : std::string_view(name);
}

/// Of repeats the log has the first ones of each power of ten: 0, 1, 10, 100, ...
bool is_round(int64 repeats) {
    while (repeats >= 10 && repeats % 10 == 0)
        repeats /= 10;
    return repeats <= 1;
}

/// For the server log alone: a client may have asked for messages of its own, and must not read
/// about other sessions.
void log_event(const Event& event, const EventNames& names) {
    core::EventLine line = {};
    line.kind = event_kind_name(event.kind);
    line.id = event.id;
    line.pid = event.pid;
    line.database = names.database;
    line.role = names.role;
    line.application = event.application;
    line.command = event.command;
    char relation[64];
    if (event.relation_known && names.relation.empty()) {
        snprintf(relation, sizeof(relation), "relation %u of database %u", event.relation,
                 event.relation_database);
        line.relation = relation;
    } else {
        line.relation = names.relation;
    }
    if (event.lock_mode != NoLock)
        line.lock_mode = GetLockmodeName(DEFAULT_LOCKMETHOD, event.lock_mode);
    line.waited = event.waited;
    line.stall = event.stall;
    line.attempts = event.attempts;
    line.blocker_pid = event.has_blocker ? event.blocker_pid : -1;
    line.blocker_role = names.blocker_role;
    line.blocker_application = event.blocker_application;
    const char* blocker_state = event.blocker_state < 0
                                    ? nullptr
                                    : state_name(static_cast<BackendState>(event.blocker_state));
    if (blocker_state != nullptr)
        line.blocker_state = blocker_state;
    line.blocker_idle = event.blocker_idle;
    line.reason = event.reason;
    line.repeats = event.repeats > 0 ? event.repeats : -1;

    CoreFailure failure;
    std::string_view text = try_core(
        CurrentMemoryContext,
        [&line](std::pmr::memory_resource& memory) { return core::event_log_line(line, memory); },
        &failure);
    if (failure.failed)
        return;
    run_uninterrupted([&text] { // the caller's work is not done
        ereport(LOG_SERVER_ONLY, (errmsg("pg_lockguard event: %s", text.data()), errhidestmt(true),
                                  errhidecontext(true)));
    });
}

} // namespace

void set_event_blocker(Event* event, int procno, int pid) {
    event->has_blocker = true;
    event->blocker_pid = pid;
    BackendStatus status;
    if (pid == 0 || !read_backend_status({procno, pid}, &status))
        return;
    event->blocker_role = status.role;
    set_event_text(event->blocker_application, status.application_name);
    event->blocker_state = status.state;
    if (is_idle_in_transaction(status.state) && status.state_start != 0)
        event->blocker_idle = Max(GetCurrentTimestamp() - status.state_start, 0);
    set_event_text(event->blocker_query, status.query);
}

EventNames names_for_log(const Event& event) {
    EventNames names = {};
    if (!is_to_be_logged(event.kind))
        return names;
    NameLookup lookup = open_name_lookup();
    if (OidIsValid(event.database))
        names.database = text_of(database_name(event.database, lookup));
    if (OidIsValid(event.role))
        names.role = text_of(role_name(event.role, lookup));
    if (event.has_blocker && OidIsValid(event.blocker_role))
        names.blocker_role = text_of(role_name(event.blocker_role, lookup));
    close_name_lookup(lookup);
    return names;
}

void record_event(Event* event, const EventNames& names) {
    store_or_fold_event(event);
    if (is_to_be_logged(event->kind) && is_round(event->repeats))
        log_event(*event, names);
}

} // namespace lockguard::pg
