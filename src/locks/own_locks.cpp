#include "locks/own_locks.h"

#include <algorithm>
#include <bit>

namespace lockguard::pg {

namespace {

/// Grows between two walks, never during one.
struct Collected {
    OwnLock* locks;
    std::size_t room;
    std::size_t count; // may be beyond the room: so many are needed
};

/// Runs under the lock manager's locks: copies, and leaves it at that.
void note(void* argument, OwnLock lock) {
    auto* collected = static_cast<Collected*>(argument);
    if (collected->count < collected->room)
        collected->locks[collected->count] = lock;
    collected->count++;
}

/// A lock that others move to the table meanwhile is seen twice, and one may stand in both places.
/// Returns how many are left, each once, in the order of their OIDs.
std::size_t merge(OwnLock* locks, std::size_t count) {
    std::sort(locks, locks + count, [](const OwnLock& left, const OwnLock& right) {
        return left.relation != right.relation ? left.relation < right.relation
                                               : left.shared < right.shared;
    });
    std::size_t merged = 0;
    for (std::size_t i = 0; i < count; i++) {
        OwnLock* last = merged == 0 ? nullptr : &locks[merged - 1];
        if (last != nullptr && last->relation == locks[i].relation &&
            last->shared == locks[i].shared)
            last->modes |= locks[i].modes;
        else
            locks[merged++] = locks[i];
    }
    return merged;
}

} // namespace

/// First the slots: a lock that others move to the table meanwhile is seen there then.
void visit_own_locks(void (*visit)(void* argument, OwnLock lock), void* argument) {
    LWLockAcquire(&MyProc->fpInfoLock, LW_SHARED);
    compat::for_each_fast_path_lock(MyProc, [=](Oid relation, LOCKMASK modes) {
        visit(argument, {relation, false, modes});
    });
    LWLockRelease(&MyProc->fpInfoLock);
    for (int partition = 0; partition < NUM_LOCK_PARTITIONS; partition++) {
        // Without the lock: only this process itself adds to the list, or others for a lock that
        // was in its slots.
        if (compat::newest_own_proclock(MyProc, partition) == nullptr)
            continue;
        LWLock* partition_lock = LockHashPartitionLockByIndex(partition);
        LWLockAcquire(partition_lock, LW_SHARED);
        for (PROCLOCK* proclock = compat::newest_own_proclock(MyProc, partition);
             proclock != nullptr;
             proclock = compat::older_own_proclock(MyProc, partition, proclock)) {
            const LOCKTAG& tag = proclock->tag.myLock->tag;
            if (tag.locktag_type != LOCKTAG_RELATION || proclock->holdMask == 0)
                continue;
            visit(argument,
                  {tag.locktag_field2, tag.locktag_field1 == InvalidOid, proclock->holdMask});
        }
        LWLockRelease(partition_lock);
    }
}

std::span<const OwnLock> find_own_locks() {
    Collected collected = {nullptr, 0, 0};
    for (std::size_t room = 64;; room = collected.count + 64) {
        collected.locks = static_cast<OwnLock*>(
            palloc_extended(room * sizeof(OwnLock), MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM));
        if (collected.locks == nullptr)
            return {};
        collected.room = room;
        collected.count = 0;
        visit_own_locks(note, &collected);
        if (collected.count <= collected.room)
            return {collected.locks, merge(collected.locks, collected.count)};
        pfree(collected.locks);
    }
}

LOCKMODE strongest_mode(LOCKMASK modes) {
    return static_cast<LOCKMODE>(std::bit_width(static_cast<uint32>(modes))) - 1;
}

} // namespace lockguard::pg
