// Is this inside of a DDL statement whose event triggers would see another one that runs now?
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Does a DDL statement run around this, for which the server collects what its event triggers are
/// to be told? May ereport; where there are event triggers it begins a subtransaction.
bool is_inside_ddl_with_event_triggers();

} // namespace lockguard::pg
