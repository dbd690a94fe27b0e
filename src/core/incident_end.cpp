#include "core/incident_end.h"

namespace lockguard::core {

std::string_view incident_end_name(IncidentEnd end) {
    switch (end) {
    case IncidentEnd::open:
        return "";
    case IncidentEnd::released:
        return "released";
    case IncidentEnd::waiters_gave_up:
        return "waiters gave up";
    case IncidentEnd::terminated:
        return "terminated";
    case IncidentEnd::cancelled:
        return "cancelled";
    case IncidentEnd::deadlock:
        return "deadlock";
    case IncidentEnd::became_part_of:
        return "became part of";
    case IncidentEnd::unknown:
        return "unknown";
    }
    return "";
}

IncidentEnd end_of_incident(const TrackedRoot& root, const RootEvidence& evidence) {
    if (root.joined != kNotTracked)
        return IncidentEnd::became_part_of;
    if (evidence.note == FailureNote::deadlock || evidence.ring_noted)
        return IncidentEnd::deadlock;
    if (evidence.note == FailureNote::terminated)
        return IncidentEnd::terminated;
    if (evidence.note == FailureNote::cancelled)
        return IncidentEnd::cancelled;
    if (evidence.waiters_noted)
        return IncidentEnd::waiters_gave_up;
    if (evidence.holds)
        return root.missed > 1 ? IncidentEnd::waiters_gave_up : IncidentEnd::open;
    if (evidence.session_gone && !evidence.notes_complete)
        return IncidentEnd::unknown;
    return IncidentEnd::released;
}

} // namespace lockguard::core
