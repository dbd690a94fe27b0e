// Who inherits from whom, asked without a lock: any of them may be dropped meanwhile. PostgreSQL's
// own functions (pg_inherits.c) raise XX000 then, where they are called without a lock mode.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Does, or did, anything inherit from it? Not where it is not there any more.
bool has_children(Oid relation);

/// What inherits from it directly, by OID, without partitions that are being detached; a list of
/// OIDs.
List* children_of(Oid relation);

/// The relation, and then all below it, each once, level by level: the order of
/// find_all_inheritors(), in which PostgreSQL locks them. A list of OIDs.
List* with_descendants(Oid relation);

} // namespace lockguard::pg
