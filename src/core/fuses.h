// What limits the worker: how many sessions it ends. Plain data, so that it can lie in shared
// memory and outlive the worker's process. The clock never goes backwards: microseconds since the
// machine was started, say.
#pragma once

#include "core/time.h"

#include <array>
#include <cstdint>

namespace lockguard::core {

inline constexpr std::uint32_t kMostTerminationsPerMinute = 1000;

/// When sessions were ended; all zero at first.
struct TerminationFuse {
    std::array<Microseconds, kMostTerminationsPerMinute> ended_at; // a ring
    std::uint32_t count;                                           // filled places
    std::uint32_t next;
};

/// May one more session be ended, where at most `limit` are allowed in any minute? A time in the
/// future counts as now: in doubt the fuse holds.
bool fuse_allows(const TerminationFuse& fuse, std::uint32_t limit, Microseconds now);

/// Notes that one is ended.
void note_termination(TerminationFuse& fuse, Microseconds now);

/// When a session was last ended for the sake of a request; all zero at first.
struct RequestFuse {
    std::int32_t pid; // of the request; 0 in an unused one
    Timestamp wait_start;
    Microseconds ended_at;
};

/// Was a session ended for this very request less than min_wait ago?
bool request_fuse_holds(const RequestFuse& fuse, std::int32_t pid, Timestamp wait_start,
                        Microseconds min_wait, Microseconds now);

} // namespace lockguard::core
