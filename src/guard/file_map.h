// The catalogs with which the server finds all others: where their files are is in none of them,
// but in a map of its own (relmapper.c).
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Does the statement give new files to such a catalog, or to an index of one? PostgreSQL refuses
/// that in a subtransaction. Takes no lock on what it names. May ereport.
bool changes_file_map(const Node* statement);

} // namespace lockguard::pg
