#include "worker/look_drawing.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

namespace {

/// What stands in the drawing behind a session.
core::TreeLabel label_of(const BlockerLook& look, core::SessionIndex index) {
    const SnapshotSession& session = look.snapshot.sessions[index];
    core::TreeLabel label = {};
    if (session.id.pid == 0)
        label.gid = psprintf("transaction %u", session.prepared_xid);
    label.waited = -1;
    BackendStatus status;
    if (session.id.pid != 0 && read_backend_status(session.id, &status))
        label.application = status.application_name;
    if (session.first_wait >= 0) {
        const SnapshotWait& wait = look.snapshot.waits[session.first_wait];
        if (!wait.safe_snapshot) {
            label.wants = GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode);
            label.object = locked_object_text(wait.tag, {});
            label.waited = std::max<core::Microseconds>(core::age(wait.wait_start, look.now), 0);
        }
    }
    return label;
}

/// Draws the whole forest of the look, once.
void draw(BlockerLook* look) {
    if (look->labels != nullptr)
        return;
    auto* xact_starts = new_array<core::Timestamp>(look->session_count);
    look->labels = new_zeroed_array<core::TreeLabel>(look->session_count);
    for (std::size_t i = 0; i < look->session_count; i++) {
        xact_starts[i] = look->facts[i].xact_start;
        look->labels[i].waited = -1;
    }
    look->rows = call_core(look->memory, [&](std::pmr::memory_resource& memory) {
        return core::grow_lock_forest(look->graph, {xact_starts, look->session_count}, memory);
    });
}

} // namespace

void set_tree(BlockerLook* look, core::SessionIndex victim, Event* event) {
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
    std::string_view text = call_core(look->memory, [&](std::pmr::memory_resource& memory) {
        return core::lock_tree_text(look->rows, {look->labels, look->session_count}, victim,
                                    sizeof(event->lock_tree) - 1, memory);
    });
    set_event_text(event->lock_tree, text);
}

} // namespace lockguard::pg
