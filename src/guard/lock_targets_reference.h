// For lock_targets only: the other table of a foreign key that is declared.
#pragma once

#include "guard/lock_collection.h"

namespace lockguard::pg {

/// The table that the key is to refer to, where the user may have it refer there. Else the relation
/// is invalid, and the statement itself will say what is wrong.
Subject look_up_referenced(Collection* found, const Constraint* key);

/// The partitions of a table that is referred to, once it is in the list itself.
void add_partitions_of_referenced(Collection* found, Subject table);

} // namespace lockguard::pg
