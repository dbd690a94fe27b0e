// For lock_targets only: the list of locks that grows, and the questions to the catalogs on the
// way. None of it takes a lock on a relation that it asks about; any may vanish meanwhile.
#pragma once

#include "boundary/compat.h"
#include "boundary/memory.h"
#include "guard/lock_target.h"

extern "C" {
#include "nodes/primnodes.h"
}

namespace lockguard::pg {

/// `valid` turns false for good once the statement can't succeed as it stands.
struct Collection {
    GrowingArray<LockTarget> locks;
    bool has_private; // a relation that only this transaction sees: not in the list
    bool has_new;     // ... because it was made here
    bool has_others;
    bool valid;
};

/// Starts a list. It grows in the current memory context.
Collection start_collection();

/// What pg_class says of a relation.
struct RelationFacts {
    char kind; // '\0' where there is no such relation any more
    Oid owner;
    bool is_private;           // only this transaction can lock it
    bool is_new;               // ... because it was made here
    bool is_others_temporary;  // of another session
    bool may_have_foreign_key; // with a table that is not private
};
RelationFacts facts_of(Oid relation);

/// Adds a lock, unless the relation is private. Modes that are covered by others are dropped.
void add(Collection* found, Oid relation, LOCKMODE mode);

/// The same, where there is such a relation.
void add_if_any(Collection* found, Oid relation, LOCKMODE mode);

/// Adds all that inherit from the relation, partitions of partitions included, as
/// find_all_inheritors() locks them.
void add_descendants(Collection* found, Oid relation, LOCKMODE mode);

/// The same, for a statement that passes over temporary tables of other sessions.
void add_accessible_descendants(Collection* found, Oid relation, LOCKMODE mode);

/// Adds the children of the relation; then, one after the other, the children of those of which
/// `goes_on` says that the statement goes on below them. So commands go down a tree that look at
/// each child before they turn to its children.
void add_levels(Collection* found, Oid relation, LOCKMODE mode, bool (*goes_on)(Oid, const void*),
                const void* argument);

/// Adds the tables that lose triggers when the foreign key is dropped: those of both sides.
void add_tables_of_key(Collection* found, Oid constraint);

/// Whose leave it takes.
enum class Right { own, own_or_schema, maintain, privilege };

/// Where the right is a privilege, one of `privileges` does.
bool is_allowed(Oid relation, Right right, AclMode privileges);

/// A relation that a statement names.
struct Subject {
    Oid relation; // InvalidOid where there is none for this user
    char kind;
};

/// The relation of that name, if the user may have a lock on it; else the collection is spoilt.
Subject look_up(Collection* found, const RangeVar* name, Right right, AclMode privileges = 0);

/// The kinds of relations that a command takes.
enum class Kinds {
    of_type,   // what ALTER <type> takes; ALTER TABLE takes nearly anything
    renamable, // the same, but ALTER INDEX … RENAME takes nearly anything, too
};
bool is_of_type(char kind, ObjectType type, Kinds kinds);

inline bool is_index(char kind) {
    return kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX;
}

} // namespace lockguard::pg
