// Repeats of an event: a statement that is tried again and again, with a limit of a millisecond,
// say, would push everything else out of the record, and fill the log.
//
// What a process says about its own statements is one entry where it comes again within a second:
// of the same kind, by the same command, about the same relation. The entry has the first number
// and time, how often it has come again and when last; all else is as of the last time. What the
// worker says is never folded: it is about others, and comes no more often than it looks.
#pragma once

#include "shmem/event_ring.h"

namespace lockguard::pg {

/// Stores the event, or folds it into an earlier one of this process. Sets its number, times and
/// repeats; without shared memory all but the number. Never ereports.
void store_or_fold_event(Event* event);

} // namespace lockguard::pg
