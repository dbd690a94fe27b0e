// What a preview has seen, step by step: plain data in a memory context.
#pragma once

#include <span>

#include "core/heavy_work.h"
#include "core/words/ddl_advice.h"

#include "boundary/compat.h"
#include "locks/lock_holders.h"

namespace lockguard::pg {

/// A lock that the statement takes.
struct PreviewedLock {
    LOCKTAG tag;
    LOCKMODE mode;
    bool blocked;                        // it was not free
    std::span<const LockHolder> holders; // if blocked: who held it then
};

/// What else it does: the first heavy work, or nothing but changes of the catalogs.
struct PreviewedWork {
    core::HeavyKind kind;
    Oid relation;         // InvalidOid where there is none, or none yet
    const char* new_name; // of a relation that is to be made; else null
    int64 size;           // negative where unknown
};

struct PreviewedSteps {
    PreviewedLock* locks; // in the order in which they are taken, as far as that is known
    int lock_count;
    int lock_room;
    bool has_work; // false where it was not seen
    PreviewedWork work;
    core::Unseen unseen;
};

/// In the current memory context.
PreviewedSteps start_steps();

/// Adds a lock, unless it, or a mode that covers it, is there. The new one takes the place of the
/// first mode that it covers; others that it covers go. Good until the next call.
PreviewedLock* add_lock(PreviewedSteps* steps, const LOCKTAG& tag, LOCKMODE mode);
PreviewedLock* add_relation_lock(PreviewedSteps* steps, Oid relation, LOCKMODE mode);

/// Does the step's lock keep others out? By the strongest lock.
core::Stopped stopped_by_all(const PreviewedSteps& steps);

} // namespace lockguard::pg
