// What lock_tree() shows, before it is made into rows: the wait-for graph, and what is known of its
// sessions and locks.
#pragma once

#include "boundary/compat.h"
#include "locks/lock_snapshot.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"

namespace lockguard::features {

/// What is known of a session of the tree beyond the snapshot.
struct SessionDetails {
    bool in_tree;
    bool has_status;
    bool visible; // to the current user
    pg::BackendStatus status;
    Name datname; // these two null where not to be had
    Name usename;
    const char* gid; // of a prepared transaction, where it is still there
};

/// Everything that the rows are made of. Plain data in one memory context.
struct TreePicture : pg::WaitGraph {
    SessionDetails* details;      // parallel to the snapshot's sessions
    core::Timestamp* xact_starts; // likewise; kUnknownTime where there is none
    text** lock_objects;          // parallel to the snapshot's waits
    pg::NameLookup names;
    TimestampTz now;
};

/// Looks at the lock table, then at the sessions of the tree and no others, and looks names up.
/// Everything is allocated in the current memory context. Returns false where nobody waits; else
/// picture->names is to be closed. Needs a transaction. May ereport.
bool take_picture(TreePicture* picture);

} // namespace lockguard::features
