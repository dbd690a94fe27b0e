// An event of the worker's about sessions that it has looked at without a catalog.
#pragma once

#include "sessions/event_record.h"

namespace lockguard::pg {

/// Records it as record_event() does, with the names of roles and databases for the log, which it
/// looks up in a transaction of its own. Leaves the current memory context as it was. May ereport.
void record_with_names(Event* event);

} // namespace lockguard::pg
