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

PreviewedLock* add_lock(PreviewedSteps* steps, const LOCKTAG& tag, LOCKMODE mode) {
    Assert(mode > NoLock && mode <= MaxLockMode);
    for (int i = 0; i < steps->lock_count; i++) {
        PreviewedLock* known = &steps->locks[i];
        if (memcmp(&known->tag, &tag, sizeof(LOCKTAG)) != 0)
            continue;
        if (covers(known->mode, mode))
            return known;
        if (covers(mode, known->mode)) {
            known->mode = mode;
            return known;
        }
    }
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
