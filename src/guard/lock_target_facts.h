// For lock_targets, and whoever else asks: what the catalogs say of columns, constraints and
// triggers. Nothing here takes a lock on a relation that it asks about; any may change or vanish
// meanwhile.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// A column of a relation, by its name.
struct ColumnFacts {
    bool exists;
    AttrNumber number;
    bool not_null;
    bool inherited_once; // from one parent, and not declared here as well
};
ColumnFacts facts_of_column(Oid relation, const char* name);

/// A constraint of a relation. The Oids are invalid where there is none.
struct ConstraintFacts {
    Oid constraint;
    char type; // CONSTRAINT_CHECK and so on
    bool no_inherit;
    bool validated;
    bool declared;       // here, whether inherited as well or not
    bool inherited_once; // as for a column
    Oid referenced;      // the other table of a foreign key
};
/// By its name.
ConstraintFacts facts_of_constraint(Oid relation, const char* name);

/// The NOT NULL of a column, by the column's name; none where the server has no constraint for
/// that.
ConstraintFacts facts_of_not_null(Oid relation, const char* column);

/// False also where there is no such constraint.
bool is_foreign_key(Oid constraint);

/// The relation's foreign keys, or those of them that have this column; as a list of OIDs.
List* foreign_keys_of(Oid relation, AttrNumber column = InvalidAttrNumber);

/// The foreign keys, of whatever tables, that depend on this column: by being of it, or by
/// referring to it. A list of OIDs, with repetitions.
List* foreign_keys_on(Oid relation, AttrNumber column);

/// Does one of the relation's foreign keys refer to the other table?
bool refers_to(Oid relation, Oid other);

/// The tables that the relation's foreign keys refer to, without those that another of its keys
/// stands for (one that refers to a partition). A list of OIDs.
List* referenced_by_keys_of(Oid relation);

/// The tables with a foreign key to the relation, likewise. Reads all of pg_constraint, as
/// PostgreSQL does for that.
List* referring_to(Oid relation);

/// The relations that lose triggers with this constraint, as DROP has it: those that carry the
/// triggers of a foreign key and of all that was derived from it for partitions. A list of OIDs,
/// with repetitions.
List* relations_with_triggers_of(Oid constraint);

bool has_indexes(Oid relation);

/// Has the relation a FOR EACH ROW trigger (of that name, if it is not null)?
bool has_row_trigger(Oid relation, const char* name, bool also_internal);

/// Has the relation a trigger that TRUNCATE fires?
bool has_truncate_trigger(Oid relation);

/// The relation that this is a partition of; InvalidOid where there is none.
Oid partitioned_parent(Oid relation);

/// The relation that this is a partition of no more for new queries, as DETACH CONCURRENTLY has
/// left it; InvalidOid where that is not so.
Oid parent_of_pending_detach(Oid relation);

} // namespace lockguard::pg
