// For lock_targets only (and the preview, which asks what is moved): ALTER … ALL IN TABLESPACE.
#pragma once

#include "guard/lock_collection.h"

namespace lockguard::pg {

/// The relations that the statement moves, as a list of OIDs in the order in which it locks them:
/// whoever owns them. The tablespaces are those that it names. Nothing is locked.
List* moved_relations(const AlterTableMoveAllStmt* statement, Oid from, Oid to);

void collect(Collection* found, const AlterTableMoveAllStmt* statement);

} // namespace lockguard::pg
