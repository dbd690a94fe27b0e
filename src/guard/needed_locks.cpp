#include "guard/needed_locks.h"

#include <algorithm>

#include "locks/lock_modes.h"

extern "C" {
#include "catalog/catalog.h"
#include "storage/lmgr.h"
}

namespace lockguard::pg {

bool is_same_lock(const NeededLock& left, const NeededLock& right) {
    return memcmp(&left.tag, &right.tag, sizeof(LOCKTAG)) == 0;
}

namespace {

NeededLock relation_lock(LockTarget target) {
    NeededLock lock = {};
    Oid database = IsSharedRelation(target.relation) ? InvalidOid : MyDatabaseId;
    SET_LOCKTAG_RELATION(lock.tag, database, target.relation);
    lock.mode = target.mode;
    return lock;
}

/// Is the lock one of these, in a mode that covers the wanted one?
bool is_covered(std::span<const NeededLock> locks, const NeededLock& lock) {
    return std::any_of(locks.begin(), locks.end(), [&](const NeededLock& other) {
        return is_same_lock(other, lock) && covers(other.mode, lock.mode);
    });
}

/// Adds a lock. In the place of the first mode of that lock that it covers, if there is one; others
/// that it covers go.
void merge(GrowingArray<NeededLock>* locks, const NeededLock& lock) {
    if (is_covered(locks->span(), lock))
        return;
    std::size_t kept = 0;
    bool placed = false;
    for (NeededLock other : *locks) {
        if (is_same_lock(other, lock) && covers(lock.mode, other.mode)) {
            if (placed)
                continue;
            other = lock;
            placed = true;
        }
        (*locks)[kept++] = other;
    }
    locks->truncate(kept);
    if (!placed)
        locks->add(lock);
}

} // namespace

bool is_held(const NeededLock& lock) {
    for (LOCKMODE mode = lock.mode; mode <= AccessExclusiveLock; mode++) {
        if (covers(mode, lock.mode) && compat::holds_lock(lock.tag, mode))
            return true;
    }
    return false;
}

bool take_if_free(const NeededLock& lock) {
    if (lock.tag.locktag_type == LOCKTAG_RELATION)
        return ConditionalLockRelationOid(lock.tag.locktag_field2, lock.mode);
    return LockAcquire(&lock.tag, lock.mode, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void take_in_queue(const NeededLock& lock) {
    if (lock.tag.locktag_type == LOCKTAG_RELATION)
        LockRelationOid(lock.tag.locktag_field2, lock.mode);
    else
        LockAcquire(&lock.tag, lock.mode, false, false);
}

bool is_learnable(const NeededLock& lock) {
    return lock.tag.locktag_type == LOCKTAG_RELATION || lock.tag.locktag_type == LOCKTAG_OBJECT;
}

void NeededLocks::collect(const LockTargets& targets) {
    GrowingArray<NeededLock> needed;
    for (const LockTarget& target : targets.locks)
        needed.add(relation_lock(target));
    for (const NeededLock& lock : learned_)
        merge(&needed, lock);
    needed_ = needed.span();

    auto* sorted = new_array<NeededLock>(needed_.size());
    std::size_t sorted_count = 0;
    // The numbers of the modes: a mode that covers another has the higher one.
    for (LOCKMODE mode = AccessShareLock; mode <= AccessExclusiveLock; mode++) {
        for (const NeededLock& lock : needed_) {
            if (lock.mode == mode)
                sorted[sorted_count++] = lock;
        }
    }
    Assert(sorted_count == needed_.size());
    taking_order_ = {sorted, sorted_count};
}

void NeededLocks::learn(const NeededLock& lock) {
    if (!is_learnable(lock))
        return;
    MemoryContext caller = MemoryContextSwitchTo(context_);
    merge(&learned_, lock);
    MemoryContextSwitchTo(caller);
}

bool NeededLocks::contains(const NeededLock& lock) const {
    return std::any_of(needed_.begin(), needed_.end(), [&](const NeededLock& other) {
        return is_same_lock(other, lock) && other.mode == lock.mode;
    });
}

} // namespace lockguard::pg
