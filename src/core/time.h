// Times and durations, as plain numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace lockguard::core {

/// A duration.
using Microseconds = std::int64_t;
inline constexpr Microseconds kMillisecond = 1000;

/// Microseconds since the PostgreSQL epoch, as in TimestampTz; or of another clock, where that is
/// said.
using Timestamp = std::int64_t;
inline constexpr Timestamp kUnknownTime = INT64_MAX; // sorts after every real time

inline constexpr Microseconds kNoAge = -1;

/// Time since start; kNoAge where that is unknown (0, as in the server's own structures, or
/// kUnknownTime) or in the future: clocks of different processors may disagree, and a clock may be
/// set back. Who wants such a moment to be just now takes the greater of this and 0. Never
/// overflows.
inline Microseconds age(Timestamp start, Timestamp now) {
    if (start == 0 || start > now)
        return kNoAge;
    // Modulo 2^64 the difference of two int64 is exact; it may exceed int64 all the same.
    const std::uint64_t difference =
        static_cast<std::uint64_t>(now) - static_cast<std::uint64_t>(start);
    constexpr auto kLongest = static_cast<std::uint64_t>(std::numeric_limits<Microseconds>::max());
    return static_cast<Microseconds>(std::min(difference, kLongest));
}

} // namespace lockguard::core
