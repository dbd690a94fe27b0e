// What a guarded statement tells the record.
#pragma once

#include <span>

#include "core/words/culprits.h"
#include "sessions/event_record.h"

namespace lockguard::pg {

/// What a guarded statement tells.
struct DdlEvent {
    EventKind kind;      // one of ddl_*
    const char* command; // command tag
    bool lock_known;
    LOCKTAG tag;                             // if lock_known
    LOCKMODE mode;                           // if lock_known
    int64 waited;                            // µs; -1 where it does not apply
    int64 stall;                             // likewise
    int32 attempts;                          // likewise
    std::span<const core::Culprit> culprits; // who is in the way, the most important first
    const char* reason;                      // may be null
};

/// Records an event of this session, with the tree of who is in its way. Needs a transaction.
/// Allocates in the current memory context; may ereport out of memory. `relation` is for the log
/// line: the relation's name, or null.
void record_ddl_event(const DdlEvent& ddl, const char* relation);

} // namespace lockguard::pg
