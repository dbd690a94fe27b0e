// lock_graph(format): who waits for whom, as a diagram for a ticket, in the language of Mermaid or
// Graphviz. What it shows is what lock_tree() shows, as far as everybody may see it there; the
// state of those that wait for nobody follows pg_stat_activity.
//
// core/wait_picture decides what is drawn, core/words/pictures how.

#include "core/lock_forest.h"
#include "core/words/pictures.h"

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "locks/lock_snapshot.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"
#include "views/diagram_format.h"

extern "C" {
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_lock_graph);
}

namespace lockguard::features {

namespace {

/// What is drawn, as plain data in one memory context.
struct Drawing {
    pg::WaitGraph waits;
    core::WaitPicture picture;
    core::PictureLabel* labels; // parallel to the picture's nodes
};

void compose(Drawing* drawing) {
    const pg::LockSnapshot& snapshot = drawing->waits.snapshot;
    std::size_t count = snapshot.table.sessions.size();
    auto* wants = pg::new_array<uint32>(count);
    auto* xact_starts = pg::new_array<core::Timestamp>(count);
    for (std::size_t i = 0; i < count; i++) {
        const pg::SnapshotSession& session = snapshot.sessions[i];
        wants[i] = pg::wants_of(snapshot, session);
        xact_starts[i] = pg::transaction_start(session.id);
    }
    drawing->picture = pg::call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        auto rows = core::grow_lock_forest(drawing->waits.graph, {xact_starts, count}, memory);
        return core::compose_picture(drawing->waits.graph, rows, {wants, count},
                                     core::kPictureLimits, memory);
    });
}

void describe_wait(const pg::SnapshotWait& wait, pg::NameLookup names, TimestampTz now,
                   core::PictureLabel* label) {
    if (wait.safe_snapshot) {
        label->tree.wants = "a safe snapshot";
        return;
    }
    label->tree.wants = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
    label->tree.object = pg::locked_object_text(wait.tag, names);
    label->tree.waited = Max(now - wait.wait_start, 0);
    label->word = core::waiters_word(wait.mode, pg::wait_kind_of(wait.tag) == core::WaitKind::data);
}

void describe_session(const pg::SnapshotSession& session, pg::NameLookup names,
                      core::PictureLabel* label) {
    label->pid = session.id.pid;
    if (session.id.pid == 0) {
        pg::PreparedTransaction prepared;
        if (pg::find_prepared_transaction(session.prepared_xid, names, &prepared) &&
            prepared.gid != nullptr)
            label->tree.gid = prepared.gid;
        return;
    }
    pg::BackendStatus status;
    if (!pg::read_backend_status(session.id, &status))
        return;
    label->tree.application = status.application_name;
    const char* state = pg::state_name(status.state);
    if (state != nullptr && pg::may_see_details(status.role, names))
        label->state = state;
}

void add_labels(Drawing* drawing) {
    std::span<const core::PictureNode> nodes = drawing->picture.nodes;
    drawing->labels =
        static_cast<core::PictureLabel*>(palloc0(sizeof(core::PictureLabel) * (nodes.size() + 1)));
    pg::NameLookup names = pg::open_name_lookup();
    TimestampTz now = GetCurrentTimestamp();
    for (std::size_t i = 0; i < nodes.size(); i++) {
        CHECK_FOR_INTERRUPTS();
        const pg::SnapshotSession& session = drawing->waits.snapshot.sessions[nodes[i].session];
        core::PictureLabel* label = &drawing->labels[i];
        label->tree.waited = -1;
        if (session.first_wait >= 0)
            describe_wait(drawing->waits.snapshot.waits[session.first_wait], names, now, label);
        if (nodes[i].folded == 0)
            describe_session(session, names, label);
    }
    pg::close_name_lookup(names);
}

} // namespace

core::DiagramFormat diagram_format(const text* name) {
    core::DiagramFormat format;
    std::string_view wanted(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
    if (!core::find_diagram_format(wanted, &format))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("unknown format \"%s\" of a lock graph", text_to_cstring(name)),
                        errhint("The formats are \"mermaid\" and \"dot\".")));
    return format;
}

} // namespace lockguard::features

/// lock_graph(format text) returns text. Errors: 22023 for an unknown format, 53200.
Datum pg_lockguard_lock_graph(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    core::DiagramFormat format = features::diagram_format(PG_GETARG_TEXT_PP(0));
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard lock_graph",
                                                  ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    features::Drawing drawing = {};
    if (pg::take_wait_graph(&drawing.waits)) {
        features::compose(&drawing);
        features::add_labels(&drawing);
    }
    std::string_view text = pg::call_core(context, [&](std::pmr::memory_resource& memory) {
        return core::diagram_text(drawing.picture, {drawing.labels, drawing.picture.nodes.size()},
                                  format, memory);
    });
    MemoryContextSwitchTo(caller);
    Datum result =
        PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size())));
    MemoryContextDelete(context);
    PG_RETURN_DATUM(result);
}
