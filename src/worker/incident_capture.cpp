#include "worker/incident_capture.h"

#include <algorithm>

#include "core/graph_reach.h"

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "sessions/backend_status.h"
#include "shmem/prepared_names.h"
#include "shmem/tracked_statements.h"

namespace lockguard::pg {

namespace {

core::TransactionKey key_of(const SnapshotSession& session, core::Timestamp xact_start) {
    core::TransactionKey key = {};
    key.procno = session.id.procno;
    key.pid = session.id.pid;
    key.xact_start = xact_start;
    key.lxid = session.id.pid == 0 ? session.prepared_xid : session.id.lxid;
    if (session.id.procno >= 0 && session.id.procno < compat::count_of_procs()) {
        // Unlocked: it is this transaction's only if that still runs.
        const PGPROC* proc = GetPGProcByNumber(session.id.procno);
        if (proc->pid == session.id.pid && compat::lxid_of(proc) == session.id.lxid) {
            key.vxid_number = compat::vxid_number_of(proc);
            key.vxid_lxid = session.id.lxid;
        }
    }
    return key;
}

/// The strings of an incident, each once.
class TextPool {
  public:
    explicit TextPool(Incident* incident) : incident_(incident) {
        incident->text[0] = '\0';
        incident->text_bytes = 1;
    }

    /// Where it stands; that of the empty string where there is no room.
    uint16 place(const char* string) {
        std::size_t size = strlen(string) + 1;
        for (std::size_t i = 0; i < incident_->text_bytes;) {
            const char* known = &incident_->text[i];
            if (strcmp(known, string) == 0)
                return static_cast<uint16>(i);
            i += strlen(known) + 1;
        }
        if (incident_->text_bytes + size > sizeof(incident_->text))
            return 0;
        uint16 result = incident_->text_bytes;
        memcpy(&incident_->text[result], string, size);
        incident_->text_bytes = static_cast<uint16>(result + size);
        return result;
    }

  private:
    Incident* incident_;
};

/// The locks of an incident, each once.
uint16 lock_place(Incident* incident, const LOCKTAG& tag) {
    for (uint16 i = 0; i < incident->lock_count; i++) {
        if (memcmp(&incident->locks[i], &tag, sizeof(tag)) == 0)
            return i;
    }
    if (incident->lock_count == lengthof(incident->locks))
        return kNoIncidentLock;
    incident->locks[incident->lock_count] = tag;
    return incident->lock_count++;
}

void capture_node(const IncidentScene& scene, const core::PictureNode& node, TextPool* texts,
                  Incident* incident, IncidentNode* stored) {
    const SnapshotSession& session = scene.waits.snapshot.sessions[node.session];
    *stored = {};
    stored->pid = node.folded > 0 ? 0 : session.id.pid;
    stored->folded = node.folded;
    stored->above = node.above == core::kNoNode ? kNoIncidentNode : static_cast<uint16>(node.above);
    stored->lock = kNoIncidentLock;
    stored->mode = node.mode;
    stored->holds = node.holds;
    stored->deadlock = node.deadlock;
    stored->mixed = node.mixed;
    if (session.first_wait >= 0) {
        const SnapshotWait& wait = scene.waits.snapshot.waits[session.first_wait];
        stored->safe_snapshot = wait.safe_snapshot;
        if (!wait.safe_snapshot) {
            stored->wants = wait.mode;
            stored->lock = lock_place(incident, wait.tag);
            stored->waited = static_cast<uint32>(
                Min(Max(scene.at - wait.wait_start, 0) / 1000, static_cast<int64>(PG_INT32_MAX)));
        }
    }
    BackendStatus status;
    if (node.folded == 0 && session.id.pid != 0 && read_backend_status(session.id, &status))
        stored->application = texts->place(status.application_name);
}

void capture_picture(const IncidentScene& scene, core::SessionIndex root, Incident* incident) {
    const LockSnapshot& snapshot = scene.waits.snapshot;
    std::size_t count = scene.waits.graph.sessions.size();
    auto* wants = new_array<uint32>(count);
    for (std::size_t i = 0; i < count; i++)
        wants[i] = wants_of(snapshot, snapshot.sessions[i]);
    auto picture = call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        core::LockGraph behind = core::graph_behind(scene.waits.graph, root, memory);
        auto rows = core::grow_lock_forest(behind, {scene.xact_starts, count}, memory);
        return core::compose_picture(behind, rows, {wants, count}, kIncidentPicture, memory);
    });
    TextPool texts(incident);
    incident->lock_count = 0;
    incident->node_count = static_cast<uint16>(picture.nodes.size());
    for (std::size_t i = 0; i < picture.nodes.size(); i++)
        capture_node(scene, picture.nodes[i], &texts, incident, &incident->nodes[i]);
    incident->edge_count = static_cast<uint16>(picture.edges.size());
    for (std::size_t i = 0; i < picture.edges.size(); i++) {
        const core::PictureEdge& edge = picture.edges[i];
        incident->edges[i] = {static_cast<uint16>(edge.waiter), static_cast<uint16>(edge.blocker),
                              edge.mode, edge.holds};
    }
}

void capture_root(const IncidentScene& scene, core::SessionIndex root, Incident* incident) {
    const SnapshotSession& session = scene.waits.snapshot.sessions[root];
    incident->database = session.database;
    incident->role = session.role;
    incident->backend_type = incident->state = -1;
    incident->worker_type[0] = incident->application[0] = incident->query[0] = '\0';
    if (session.id.pid == 0) {
        if (!find_prepared_name(session.prepared_xid, &incident->gid))
            incident->gid[0] = '\0';
        return;
    }
    BackendStatus status;
    if (!read_backend_status(session.id, &status))
        return;
    incident->database = status.database;
    incident->role = status.role;
    incident->backend_type = status.type;
    incident->state = status.state;
    if (status.type == B_BG_WORKER) {
        const char* type = backend_type_name(status.type, session.id.pid);
        set_event_text(incident->worker_type, type == nullptr ? "" : type);
    }
    set_event_text(incident->application, status.application_name);
    set_event_text(incident->query, status.query);
}

void capture_statements(const SessionId& root, Incident* incident) {
    incident->statement_count = 0;
    incident->first_to_touch = 0;
    auto* transaction = new_object<TrackedTransaction>();
    if (!read_tracked_transaction(root.procno, transaction) || transaction->pid != root.pid ||
        transaction->lxid != root.lxid)
        return;
    incident->statement_count = transaction->statement_count;
    std::copy_n(transaction->statements, transaction->statement_count, incident->statements);
    if (!incident->lock_known || incident->lock.locktag_type != LOCKTAG_RELATION)
        return;
    const TrackedStatement* first = first_to_touch(*transaction, incident->lock.locktag_field2);
    if (first != nullptr)
        incident->first_to_touch = first->number;
}

} // namespace

bool take_incident_scene(IncidentScene* scene) {
    *scene = {};
    scene->at = GetCurrentTimestamp();
    if (!take_wait_graph(&scene->waits))
        return false;
    const LockSnapshot& snapshot = scene->waits.snapshot;
    std::size_t count = snapshot.table.sessions.size();
    scene->sessions = new_array<core::SeenSession>(count);
    scene->xact_starts = new_array<core::Timestamp>(count);
    for (std::size_t i = 0; i < count; i++) {
        const SnapshotSession& session = snapshot.sessions[i];
        scene->xact_starts[i] = transaction_start(session.id);
        core::Timestamp since = core::kUnknownTime;
        if (session.first_wait >= 0 && !snapshot.waits[session.first_wait].safe_snapshot)
            since = snapshot.waits[session.first_wait].wait_start;
        scene->sessions[i] = {key_of(session, scene->xact_starts[i]), since};
    }
    scene->rows = call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::grow_lock_forest(scene->waits.graph, {scene->xact_starts, count}, memory);
    });
    return true;
}

const SnapshotWait* wait_for_root(const IncidentScene& scene, core::SessionIndex root,
                                  core::LockMode* held) {
    const LockSnapshot& snapshot = scene.waits.snapshot;
    int longest = -1;
    bool longest_held = false;
    for (core::SessionIndex i = 0; i < scene.waits.graph.sessions.size(); i++) {
        int first_wait = snapshot.sessions[i].first_wait;
        if (first_wait < 0)
            continue;
        for (const core::Edge& edge : scene.waits.graph.blockers_of(i)) {
            const SnapshotWait& wait = snapshot.waits[first_wait];
            if (edge.blocker != root || (longest_held && !edge.holds))
                continue;
            if (longest < 0 || (edge.holds && !longest_held) ||
                wait.wait_start < snapshot.waits[longest].wait_start) {
                longest = first_wait;
                longest_held = edge.holds;
                *held = edge.mode;
            }
        }
    }
    return longest < 0 ? nullptr : &snapshot.waits[longest];
}

void capture_incident(const IncidentScene& scene, core::SessionIndex root, Incident* incident) {
    incident->root = scene.sessions[root].key;
    capture_root(scene, root, incident);
    core::LockMode held = core::kNoLockMode;
    const SnapshotWait* wait = wait_for_root(scene, root, &held);
    incident->lock_known = wait != nullptr && !wait->safe_snapshot;
    if (incident->lock_known) {
        incident->lock = wait->tag;
        incident->mode_held = held;
        incident->mode_wanted = wait->mode;
    }
    capture_statements(scene.waits.snapshot.sessions[root].id, incident);
    capture_picture(scene, root, incident);
}

} // namespace lockguard::pg
