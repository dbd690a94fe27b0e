#include "preview/preview_steps.h"

#include <algorithm>

#include "locks/lock_modes.h"

extern "C" {
#include "catalog/catalog.h"
}

namespace lockguard::pg {

PreviewedSteps start_steps() {
    PreviewedSteps steps = {};
    steps.lock_room = 16;
    steps.locks = static_cast<PreviewedLock*>(
        palloc(sizeof(PreviewedLock) * static_cast<Size>(steps.lock_room)));
    steps.work.size = -1;
    return steps;
}

namespace {

/// Where the object is in the list: as merge() of guard/lock_collection. Returns the lock that
/// covers the new one; null where none does.
PreviewedLock* merge(PreviewedSteps* steps, const LOCKTAG& tag, LOCKMODE mode) {
    int kept = 0;
    PreviewedLock* placed = nullptr;
    for (int i = 0; i < steps->lock_count; i++) {
        PreviewedLock lock = steps->locks[i];
        const bool same = memcmp(&lock.tag, &tag, sizeof(LOCKTAG)) == 0;
        if (same && covers(mode, lock.mode)) {
            if (placed != nullptr)
                continue;
            lock.mode = mode;
            placed = &steps->locks[kept];
        } else if (same && covers(lock.mode, mode)) {
            placed = &steps->locks[kept];
        }
        steps->locks[kept++] = lock;
    }
    steps->lock_count = kept;
    return placed;
}

} // namespace

PreviewedLock* add_lock(PreviewedSteps* steps, const LOCKTAG& tag, LOCKMODE mode) {
    Assert(mode > NoLock && mode <= MaxLockMode);
    if (PreviewedLock* known = merge(steps, tag, mode))
        return known;
    if (steps->lock_count == steps->lock_room) {
        steps->lock_room *= 2;
        steps->locks = static_cast<PreviewedLock*>(
            repalloc(steps->locks, sizeof(PreviewedLock) * static_cast<Size>(steps->lock_room)));
    }
    PreviewedLock* added = &steps->locks[steps->lock_count++];
    *added = {tag, mode, false, {}};
    return added;
}

PreviewedLock* add_relation_lock(PreviewedSteps* steps, Oid relation, LOCKMODE mode) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, IsSharedRelation(relation) ? InvalidOid : MyDatabaseId, relation);
    return add_lock(steps, tag, mode);
}

core::Stopped stopped_by_all(const PreviewedSteps& steps) {
    core::Stopped stopped = core::Stopped::nobody;
    for (int i = 0; i < steps.lock_count; i++) {
        if (steps.locks[i].tag.locktag_type == LOCKTAG_RELATION)
            stopped = std::max(stopped, core::stopped_by(steps.locks[i].mode));
    }
    return stopped;
}

} // namespace lockguard::pg
