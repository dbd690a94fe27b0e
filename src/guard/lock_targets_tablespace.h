// For lock_targets only: ALTER … ALL IN TABLESPACE.
#pragma once

#include "guard/lock_collection.h"

namespace lockguard::pg {

void collect(Collection* found, const AlterTableMoveAllStmt* statement);

} // namespace lockguard::pg
