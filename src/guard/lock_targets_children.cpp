#include "guard/lock_targets_children.h"

#include "guard/lock_target_facts.h"

extern "C" {
#include "utils/lsyscache.h"
}

namespace lockguard::pg::if_child {

bool always(Oid /*child*/, const void* /*argument*/) {
    return true;
}

bool never(Oid /*child*/, const void* /*argument*/) {
    return false;
}

bool lacks_column(Oid child, const void* name) {
    return !facts_of_column(child, static_cast<const char*>(name)).exists;
}

bool has_nullable_column(Oid child, const void* name) {
    ColumnFacts column = facts_of_column(child, static_cast<const char*>(name));
    return column.exists && !column.not_null;
}

bool inherits_column_alone(Oid child, const void* name) {
    return facts_of_column(child, static_cast<const char*>(name)).inherited_once;
}

bool inherits_constraint_alone(Oid child, const void* name) {
    return facts_of_constraint(child, static_cast<const char*>(name)).inherited_once;
}

bool inherits_not_null_alone(Oid child, const void* column) {
    return facts_of_not_null(child, static_cast<const char*>(column)).inherited_once;
}

bool lacks_constraint(Oid child, const void* name) {
    return !OidIsValid(facts_of_constraint(child, static_cast<const char*>(name)).constraint);
}

bool lacks_indexes(Oid child, const void* /*argument*/) {
    // Else it may have the one that is wanted, and that is attached as it is.
    return !has_indexes(child);
}

bool lacks_key_to(Oid child, const void* referenced) {
    // The same for a foreign key.
    return !refers_to(child, *static_cast<const Oid*>(referenced));
}

bool has_row_triggers(Oid child, const void* also_internal) {
    return has_row_trigger(child, nullptr, *static_cast<const bool*>(also_internal));
}

} // namespace lockguard::pg::if_child
