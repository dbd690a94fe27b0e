// For lock_targets only: the forms of ALTER.
#pragma once

#include "guard/lock_collection.h"

namespace lockguard::pg {

void collect(Collection* found, const AlterTableStmt* statement);
void collect(Collection* found, const RenameStmt* statement);
void collect(Collection* found, const AlterObjectSchemaStmt* statement);

} // namespace lockguard::pg
