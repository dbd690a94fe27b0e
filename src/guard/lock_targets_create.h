// For lock_targets only (and the guard, which asks whether there is anything to guard): CREATE
// TABLE, which locks the relations that the new table is to have to do with.
#pragma once

#include "guard/lock_collection.h"

namespace lockguard::pg {

/// Does it name any relation besides the new one: a parent, one that a foreign key refers to, one
/// that it is to be like? Looks at its words alone.
bool names_other_relations(const CreateStmt* statement);

void collect(Collection* found, const CreateStmt* statement);

} // namespace lockguard::pg
