#include "locks/lock_modes.h"

namespace lockguard::pg {

bool covers(LOCKMODE mode, LOCKMODE other) {
    // Both lock methods share one table; any tag of a relation leads to it.
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, InvalidOid, InvalidOid);
    const LOCKMASK* conflicts = GetLockTagsMethodTable(&tag)->conflictTab;
    return (conflicts[other] & ~conflicts[mode]) == 0;
}

} // namespace lockguard::pg
