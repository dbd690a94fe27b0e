// For lock_targets only: DROP.
#pragma once

#include "guard/lock_collection.h"

namespace lockguard::pg {

void collect(Collection* found, const DropStmt* statement);

} // namespace lockguard::pg
