// Where ALTER goes from child to child: does it go on below this one? Questions for add_levels()
// (guard/lock_collection); the second argument is what they are about.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg::if_child {

bool always(Oid child, const void* argument);
bool never(Oid child, const void* argument);
bool lacks_column(Oid child, const void* name);
bool has_nullable_column(Oid child, const void* name);
bool inherits_column_alone(Oid child, const void* name);
bool inherits_constraint_alone(Oid child, const void* name);
bool inherits_not_null_alone(Oid child, const void* column);
bool lacks_constraint(Oid child, const void* name);
bool lacks_indexes(Oid child, const void* argument);
bool lacks_key_to(Oid child, const void* referenced);
bool has_row_triggers(Oid child, const void* also_internal);

} // namespace lockguard::pg::if_child
