// Who keeps sessions from ACCESS EXCLUSIVE on a relation (or what else counts by the settings): one
// look at the lock table, what the policy (core/blocker_policy) is to know of those who hold what
// is waited for, and its judgement.
//
// Reads shared catalogs only, and waits for no lock.
#pragma once

#include "core/blocker_policy.h"
#include "core/lock_forest.h"
#include "core/lock_graph.h"
#include "core/words/events.h"
#include "core/words/terminations.h"

#include "locks/lock_snapshot.h"
#include "sessions/backend_status.h"
#include "sessions/event_record.h"
#include "worker/last_check.h"

namespace lockguard::pg {

/// Since when a session has read from its client without any change of its status, or a prepared
/// transaction has been in the way. (When it was prepared can't be asked in no database.)
struct Stall {
    SessionId session; // of a prepared transaction its xid in the place of lxid
    int change_count;
    TimestampTz since;
};

/// What looks have to know of those before them.
struct LookMemory {
    Stall* stalls; // by procno; an entry whose session has gone on can match nothing again
    // Since the latest reload:
    bool names_checked;  // those in exempt_roles and exempt_databases, whether they exist
    bool names_reported; // there is one that does not
};

/// What one look gathers. Everything is in its memory context.
struct BlockerLook : WaitGraph {
    MemoryContext memory;
    TimestampTz now;

    core::BlockedRequest* requests;
    const SnapshotWait** request_waits; // parallel to requests
    std::size_t request_count;

    // All parallel to the snapshot's sessions. A session that holds nothing that a request waits
    // for has no status (null), and its facts say that it may not be ended.
    core::SessionFacts* facts;
    BackendStatus** statuses;
    std::size_t session_count;

    core::Judgement judgement;

    // The drawing, made when it is first needed.
    std::span<const core::ForestRow> rows;
    core::TreeLabel* labels;
};

/// A decision of the policy with everything that is to be said about it.
struct BlockerCase {
    core::BlockerDecision decision;
    core::Termination words;
    EventNames names;
    const char* requester; // what kind of process, where no client waits behind it; else null
    Event* event;          // complete but for kind, reason and tree
};

/// The cases of a look: first those to end or to cancel, then those to spare.
struct BlockerCases {
    BlockerCase* cases; // null where the catalogs can't be read without waiting for a lock
    std::size_t to_end;
    std::size_t count;
};

/// Looks, and judges without the catalogs, which is enough to know that there is nothing to do, and
/// when there will be. Returns false where nobody is in the way of a request. Outside of
/// transactions; ereports out of memory.
///
/// \param memory   where the look lives; the current memory context
/// \param earlier  what this look adds to, for the next
bool look_for_blockers(MemoryContext memory, LookMemory* earlier, BlockerLook* look);

/// Once after each reload, before anybody is to be judged: a name in exempt_roles or
/// exempt_databases that does not exist protects nobody, and is a WARNING. In a transaction of its
/// own; where the catalogs can't be read now, it is for the next look. Leaves nothing in memory.
///
/// \param memory  of the look; the current memory context
void check_exempt_names(MemoryContext memory, LookMemory* earlier);

/// Judges again, in a transaction of its own, knowing what the catalogs know, and puts what is left
/// into words. Where they can't be read now, it is for the next look.
BlockerCases judge_with_catalogs(BlockerLook* look, LookMemory* earlier);

BlockerIdentity blocker_identity(const BlockerLook& look, const core::BlockerDecision& decision);
RequestIdentity request_identity(const BlockerLook& look, const core::BlockerDecision& decision);

} // namespace lockguard::pg
