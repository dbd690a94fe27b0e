// Times and durations, as plain numbers.
#pragma once

#include <cstdint>

namespace lockguard::core {

/// A duration.
using Microseconds = std::int64_t;
inline constexpr Microseconds kMillisecond = 1000;

/// Microseconds since the PostgreSQL epoch, as in TimestampTz; or of another clock, where that is
/// said.
using Timestamp = std::int64_t;
inline constexpr Timestamp kUnknownTime = INT64_MAX; // sorts after every real time

} // namespace lockguard::core
