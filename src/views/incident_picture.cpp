#include "views/incident_picture.h"

#include "boundary/memory.h"
#include "boundary/valid_text.h"
#include "locks/lock_snapshot.h"

namespace lockguard::features {

namespace {

/// A string of the incident's.
const char* text_at(const pg::Incident& incident, uint16 place) {
    std::size_t bytes = Min(incident.text_bytes, sizeof(incident.text));
    if (place >= bytes)
        return "";
    std::string_view rest(&incident.text[place], bytes - place);
    return pg::valid_copy(rest.substr(0, rest.find('\0')));
}

core::PictureLabel label_of(const pg::Incident& incident, const pg::IncidentNode& node,
                            pg::NameLookup names) {
    core::PictureLabel label = {};
    label.pid = node.pid;
    label.tree.application = text_at(incident, node.application);
    label.tree.waited = -1;
    if (node.safe_snapshot) {
        label.tree.wants = "a safe snapshot";
        return label;
    }
    if (node.wants == NoLock || node.wants > MaxLockMode)
        return label;
    label.tree.wants = GetLockmodeName(DEFAULT_LOCKMETHOD, node.wants);
    label.tree.waited = static_cast<core::Microseconds>(node.waited) * 1000;
    bool data = false;
    if (node.lock < Min(incident.lock_count, lengthof(incident.locks))) {
        const LOCKTAG& lock = incident.locks[node.lock];
        label.tree.object = pg::locked_object_text(lock, names);
        data = pg::wait_kind_of(lock) == core::WaitKind::data;
    }
    label.word = core::waiters_word(node.wants, data);
    return label;
}

} // namespace

IncidentPicture incident_picture(const pg::Incident& incident, pg::NameLookup names) {
    std::size_t node_count = Min(incident.node_count, lengthof(incident.nodes));
    std::size_t edge_count = Min(incident.edge_count, lengthof(incident.edges));
    auto* nodes = pg::new_zeroed_array<core::PictureNode>(node_count);
    auto* edges = pg::new_zeroed_array<core::PictureEdge>(edge_count);
    auto* labels = pg::new_zeroed_array<core::PictureLabel>(node_count);
    for (std::size_t i = 0; i < node_count; i++) {
        const pg::IncidentNode& node = incident.nodes[i];
        nodes[i].above = node.above < i ? node.above : core::kNoNode;
        nodes[i].mode = node.mode;
        nodes[i].holds = node.holds;
        nodes[i].deadlock = node.deadlock;
        nodes[i].mixed = node.mixed;
        nodes[i].folded = node.folded;
        labels[i] = label_of(incident, node, names);
    }
    for (std::size_t i = 0; i < edge_count; i++) {
        const pg::IncidentEdge& edge = incident.edges[i];
        edges[i] = {edge.waiter, edge.blocker, edge.mode, edge.holds};
    }
    if (node_count > 0)
        labels[0].tree.gid =
            pg::valid_copy({incident.gid, strnlen(incident.gid, sizeof(incident.gid) - 1)});
    return {{{nodes, node_count}, {edges, edge_count}}, labels};
}

} // namespace lockguard::features
