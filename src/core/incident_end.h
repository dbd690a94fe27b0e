// How an incident ended, decided from what was seen, not guessed.
#pragma once

#include "core/incident_tracker.h"

#include <cstdint>
#include <string_view>

namespace lockguard::core {

/// How an incident ended.
enum class IncidentEnd : std::uint8_t {
    open, // it has not, or that is not certain yet
    released,
    waiters_gave_up,
    terminated,
    cancelled,
    deadlock,
    became_part_of,
    unknown,
};

/// "released", "waiters gave up", ...; empty for `open`.
std::string_view incident_end_name(IncidentEnd end);

/// What a transaction that failed has said of itself.
enum class FailureNote : std::uint8_t { none, terminated, cancelled, deadlock, lock_timeout };

/// What can be seen of a root that keeps nobody waiting any more.
struct RootEvidence {
    FailureNote note;      // of its transaction, since it was last seen to keep somebody waiting
    bool ring_noted;       // a member of its ring has been chosen to end the deadlock
    bool waiters_noted;    // all who waited have failed
    bool transaction_over; // it is not in that transaction any more
    bool session_gone;
    bool notes_complete; // whoever fails says so: else silence means nothing
    bool holds;          // it still holds what the last one waited for
};

/// What that means. `open` where it still holds the lock, and this is the first look that does not
/// see anybody waiting for it: they may be between two waits.
IncidentEnd end_of_incident(const TrackedRoot& root, const RootEvidence& evidence);

} // namespace lockguard::core
