// The line in the server log for an incident. As in core/words/text: the result is in `memory` and
// NUL-terminated; std::bad_alloc only.
#pragma once

#include "core/time.h"

#include <cstdint>
#include <memory_resource>
#include <string_view>

namespace lockguard::core {

/// An incident as the log tells it. Empty text and negative numbers are left out.
struct IncidentLine {
    std::int64_t id;
    std::string_view end; // incident_end_name()
    std::int64_t part_of; // 0 is left out
    Microseconds lasted;
    std::int32_t root_pid; // 0 for a prepared transaction
    std::string_view gid;
    std::string_view database;
    std::string_view role;
    std::string_view application;
    std::string_view state;
    std::string_view lock; // in words
    std::string_view mode_held;
    std::string_view mode_wanted;
    std::int64_t waiters; // at the peak
    std::int64_t sessions;
    Microseconds waited;
    Microseconds longest;
};

/// `id=7 end="released" lasted_ms=45000.120 root_pid=4711 ...`: as event_log_line() does it. Never
/// a query.
std::string_view incident_log_line(const IncidentLine& line, std::pmr::memory_resource& memory);

} // namespace lockguard::core
