// What transactions say of themselves as they fail: from the process whose transaction it is to
// whoever wonders why a session does not hold its locks any more (worker/incident_watch).
//
// A note for each PGPROC, written by its process alone, in two words without a lock: a reader takes
// them for good only where the first was the same before and after. The latest note about a
// transaction stays; that the session itself was told to end is a word of its own.
#pragma once

#include "core/incident_end.h"

#include "boundary/compat.h"
#include "shmem/segment.h"

namespace lockguard::pg {

/// Leaves the note of this process. Never ereports; without shared memory, or a PGPROC of its own,
/// it does nothing.
///
/// \param ends_transaction  else it may only be a subtransaction that fails
void leave_failure_note(core::FailureNote note, bool ends_transaction, TimestampTz at);

struct FailureNoteRead {
    core::FailureNote note; // none where there is none of that session
    bool ends_transaction;
    LocalTransactionId lxid;
    TimestampTz at;
    bool session_is_terminated; // the process ends, or has ended, because it was told to
};

/// The latest note of that process, whichever transaction it is about. Never ereports.
FailureNoteRead read_failure_note(int procno, int pid);

extern const SharedPart kFailureNotesPart;

} // namespace lockguard::pg
