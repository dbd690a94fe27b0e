#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// A relation that a statement locks.
struct LockTarget {
    Oid relation;
    LOCKMODE mode;
};

} // namespace lockguard::pg
