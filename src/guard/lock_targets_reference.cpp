#include "guard/lock_targets_reference.h"

#include "guard/lock_target_facts.h"
#include "guard/lock_targets_children.h"

extern "C" {
#include "catalog/namespace.h"
#include "nodes/value.h"
#include "utils/lsyscache.h"
}

namespace lockguard::pg {

namespace {

/// May the user have a foreign key refer to that table?
bool may_refer_to(Oid table, const List* columns) {
    if (is_allowed(table, Right::privilege, ACL_REFERENCES))
        return true;
    Oid user = GetUserId();
    if (columns == NIL) // the primary key's
        return pg_attribute_aclcheck_all(table, user, ACL_REFERENCES, ACLMASK_ANY) == ACLCHECK_OK;
    for (int i = 0; i < list_length(columns); i++) {
        ColumnFacts column = facts_of_column(table, strVal(list_nth(columns, i)));
        if (!column.exists ||
            pg_attribute_aclcheck(table, column.number, user, ACL_REFERENCES) != ACLCHECK_OK)
            return false;
    }
    return true;
}

} // namespace

Subject look_up_referenced(Collection* found, const Constraint* key) {
    Oid referenced = RangeVarGetRelid(key->pktable, NoLock, true);
    char kind = OidIsValid(referenced) ? get_rel_relkind(referenced) : '\0';
    if ((kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE) ||
        !may_refer_to(referenced, key->pk_attrs)) {
        found->has_others = true;
        return {InvalidOid, '\0'};
    }
    return {referenced, kind};
}

void add_partitions_of_referenced(Collection* found, Subject table) {
    if (table.kind == RELKIND_PARTITIONED_TABLE)
        add_levels(found, table.relation, ShareRowExclusiveLock, if_child::always, nullptr);
}

} // namespace lockguard::pg
