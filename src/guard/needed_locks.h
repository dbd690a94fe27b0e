// The locks that a statement at low priority takes before it runs: those that its words ask for,
// and those that turned up inside it and have been learned.
#pragma once

#include <span>

#include "boundary/compat.h"
#include "boundary/memory.h"
#include "guard/lock_targets.h"

namespace lockguard::pg {

/// A lock, and the mode that is needed.
struct NeededLock {
    LOCKTAG tag;
    LOCKMODE mode;
};

bool is_same_lock(const NeededLock& left, const NeededLock& right);

/// Does this transaction, or this session, hold it already, in this mode or in one that covers it?
bool is_held(const NeededLock& lock);

/// Takes a lock if it is free. For a relation that reads the invalidation messages, too.
bool take_if_free(const NeededLock& lock);

/// Takes a lock in its queue.
void take_in_queue(const NeededLock& lock);

/// Can it be taken before the statement runs? Not that of a row or a transaction: by then it is
/// another's, or nobody's; nor one that some function takes, perhaps for the session.
bool is_learnable(const NeededLock& lock);

/// Plain data, and pointers into memory contexts.
class NeededLocks {
  public:
    /// \param context  where the learned ones are kept
    explicit NeededLocks(MemoryContext context) : context_(context) {}

    /// Those that the statement's words ask for, then those that were learned. Allocated in the
    /// current memory context.
    void collect(const LockTargets& targets);

    /// Keeps a lock, if it is learnable and not known already, for the next attempts.
    void learn(const NeededLock& lock);

    /// As they were last collected, in the order in which PostgreSQL takes them: whoever looks at
    /// them meets the first that would be waited for first.
    std::span<const NeededLock> all() const { return needed_; }

    /// The same, the weaker modes first and AccessExclusiveLock last: that one is logged for
    /// standbys in the moment when it is taken, and replayed there, even if the next lock is not to
    /// be had and all are given back. For locks that are taken only if they are free, where any
    /// order does.
    std::span<const NeededLock> in_taking_order() const { return taking_order_; }

    bool contains(const NeededLock& lock) const;

  private:
    MemoryContext context_;
    std::span<NeededLock> needed_;
    std::span<NeededLock> taking_order_;
    GrowingArray<NeededLock> learned_;
};

} // namespace lockguard::pg
