#include "guard/ddl_event.h"

#include "core/words/events.h"
#include "boundary/bridge.h"
#include "boundary/settings.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

namespace {

/// Who is in the way, and this statement below them. It is read in every database, so that what is
/// locked has no name in it.
std::string_view draw_culprits(const DdlEvent& ddl) {
    core::TreeLabel statement = {};
    statement.application = application_name == nullptr ? "" : application_name;
    if (ddl.lock_known) {
        statement.wants = GetLockmodeName(ddl.tag.locktag_lockmethodid, ddl.mode);
        statement.object = locked_object_text(ddl.tag, {});
    }
    statement.waited = ddl.waited;
    return call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::culprit_tree_text(ddl.culprits, MyProcPid, statement,
                                       sizeof(Event::lock_tree) - 1, memory);
    });
}

} // namespace

void record_ddl_event(const DdlEvent& ddl, const char* relation) {
    Event event;
    new_event(ddl.kind, &event);
    event.pid = MyProcPid;
    event.role = MyProc->roleId;
    event.database = MyDatabaseId;
    set_event_text(event.application, application_name == nullptr ? "" : application_name);
    set_event_text(event.command, ddl.command);
    if (ddl.lock_known) {
        event.lock_mode = ddl.mode;
        if (ddl.tag.locktag_type == LOCKTAG_RELATION) {
            event.relation_known = true;
            event.relation_database = ddl.tag.locktag_field1;
            event.relation = ddl.tag.locktag_field2;
        }
    }
    event.waited = ddl.waited;
    event.stall = ddl.stall;
    event.attempts = ddl.attempts;
    if (ddl.reason != nullptr)
        set_event_text(event.reason, ddl.reason);
    if (!ddl.culprits.empty()) {
        const core::Culprit& first = ddl.culprits.front();
        const PGPROC* proc = first.pid == 0 ? nullptr : BackendPidGetProc(first.pid);
        if (proc != nullptr) {
            set_event_blocker(&event, compat::procno_of(proc), first.pid);
        } else {
            event.has_blocker = true;
            event.blocker_pid = first.pid;
            set_event_text(event.blocker_application, first.application);
        }
        set_event_text(event.lock_tree, draw_culprits(ddl));
    }
    EventNames names = names_for_log(event);
    if (relation != nullptr)
        names.relation = relation;
    record_event(&event, names);
}

} // namespace lockguard::pg
