#include "guard/inheritance.h"

extern "C" {
#include "catalog/pg_inherits.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

bool has_children(Oid relation) {
    // Nothing is invalidated between these two: the second finds in the cache what the first has
    // put there.
    return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)) && has_subclass(relation);
}

List* children_of(Oid relation) {
    // It begins with has_subclass().
    return has_children(relation) ? find_inheritance_children(relation, NoLock) : NIL;
}

List* with_descendants(Oid relation) {
    List* found = list_make1_oid(relation);
    for (int i = 0; i < list_length(found); i++) { // it grows
        CHECK_FOR_INTERRUPTS();
        const Oid parent = list_nth_oid(found, i);
        List* children = children_of(parent);
        // A partition has one parent; only then need nobody look whether it is there already.
        found = get_rel_relkind(parent) == RELKIND_PARTITIONED_TABLE
                    ? list_concat(found, children)
                    : list_concat_unique_oid(found, children);
        list_free(children);
    }
    return found;
}

} // namespace lockguard::pg
