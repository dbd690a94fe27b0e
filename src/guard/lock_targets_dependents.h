// For lock_targets only: what goes with an object that is dropped.
#pragma once

#include "guard/lock_collection.h"

extern "C" {
#include "catalog/dependency.h"
}

namespace lockguard::pg {

/// Adds the relations that PostgreSQL locks when it deletes these objects: as it looks for what
/// depends on them (dependency.c: findDependentObjects()), and where `cascade` is true also as it
/// deletes it all. Where that can't succeed, because something is part of an object that can't be
/// dropped, the collection is spoilt.
///
/// Locks nothing. Reads pg_depend for each object once.
void add_deleted(Collection* found, const ObjectAddress* objects, int count, bool cascade);

} // namespace lockguard::pg
