#include "pg/needed_locks.h"

#include <algorithm>

extern "C" {
#include "catalog/catalog.h"
#include "storage/lmgr.h"
}

namespace lockguard::pg {

bool is_same_lock(const NeededLock& left, const NeededLock& right) {
    return memcmp(&left.tag, &right.tag, sizeof(LOCKTAG)) == 0;
}

namespace {

bool covers(const LOCKTAG& tag, LOCKMODE one, LOCKMODE other) {
    const LOCKMASK* conflicts = GetLockTagsMethodTable(&tag)->conflictTab;
    return (conflicts[other] & ~conflicts[one]) == 0;
}

NeededLock relation_lock(LockTarget target) {
    NeededLock lock = {};
    Oid database = IsSharedRelation(target.relation) ? InvalidOid : MyDatabaseId;
    SET_LOCKTAG_RELATION(lock.tag, database, target.relation);
    lock.mode = target.mode;
    return lock;
}

/// Where one of the locks is this one, it is needed in the stronger of the two modes. Returns
/// whether there is one.
bool merge(std::span<NeededLock> locks, const NeededLock& lock) {
    for (NeededLock& other : locks) {
        if (is_same_lock(other, lock)) {
            other.mode = std::max(other.mode, lock.mode);
            return true;
        }
    }
    return false;
}

} // namespace

bool is_held(const NeededLock& lock) {
    for (LOCKMODE mode = lock.mode; mode <= AccessExclusiveLock; mode++) {
        if (covers(lock.tag, mode, lock.mode) && compat::is_lock_held(lock.tag, mode))
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
    auto* needed = static_cast<NeededLock*>(
        palloc((targets.locks.size() + learned_count_) * sizeof(NeededLock)));
    std::size_t count = 0;
    for (const LockTarget& target : targets.locks)
        needed[count++] = relation_lock(target);
    std::span<NeededLock> asked_for = {needed, count};
    for (std::size_t i = 0; i < learned_count_; i++) {
        if (!merge(asked_for, learned_[i]))
            needed[count++] = learned_[i];
    }
    needed_ = {needed, count};
}

void NeededLocks::learn(const NeededLock& lock) {
    if (!is_learnable(lock) || merge({learned_, learned_count_}, lock))
        return;
    if (learned_count_ == learned_room_) {
        std::size_t room = std::max<std::size_t>(2 * learned_room_, 8);
        Size size = sizeof(NeededLock) * room;
        learned_ = static_cast<NeededLock*>(learned_ == nullptr ? MemoryContextAlloc(context_, size)
                                                                : repalloc(learned_, size));
        learned_room_ = room;
    }
    learned_[learned_count_++] = lock;
}

bool NeededLocks::contains(const NeededLock& lock) const {
    return std::any_of(needed_.begin(), needed_.end(), [&](const NeededLock& other) {
        return is_same_lock(other, lock) && other.mode == lock.mode;
    });
}

} // namespace lockguard::pg
