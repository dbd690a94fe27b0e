// A clock that does not run back.
#pragma once

#include "core/time.h"

#include "boundary/compat.h"

namespace lockguard::pg {

/// Microseconds, from any start.
inline core::Microseconds steady_now() {
    instr_time now;
    INSTR_TIME_SET_CURRENT(now);
    return static_cast<core::Microseconds>(compat::nanoseconds(now) / 1000);
}

} // namespace lockguard::pg
