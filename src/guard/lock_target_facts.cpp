#include "guard/lock_target_facts.h"

#include <algorithm>

#include "boundary/memory.h"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

namespace {

/// A look at the rows of a catalog by an index of which the first column is an OID.
struct Lookup {
    Relation catalog;
    SysScanDesc scan;
};

Lookup begin(Oid catalog, Oid index, AttrNumber column, Oid value) {
    ScanKeyData key;
    ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(value));
    Relation opened = table_open(catalog, AccessShareLock);
    return {opened, systable_beginscan(opened, index, true, nullptr, 1, &key)};
}

/// The next row, null after the last.
template <class Row>
const Row* next(const Lookup& lookup, HeapTuple* tuple) {
    *tuple = systable_getnext(lookup.scan);
    return HeapTupleIsValid(*tuple) ? reinterpret_cast<const Row*>(GETSTRUCT(*tuple)) : nullptr;
}

void end(const Lookup& lookup) {
    systable_endscan(lookup.scan);
    table_close(lookup.catalog, AccessShareLock);
}

Lookup constraints_of(Oid relation) {
    return begin(ConstraintRelationId, ConstraintRelidTypidNameIndexId, Anum_pg_constraint_conrelid,
                 relation);
}

/// Is that column one of the constraint's?
bool has_column(const Lookup& lookup, HeapTuple constraint, AttrNumber column) {
    bool is_null = false;
    Datum columns = heap_getattr(constraint, Anum_pg_constraint_conkey,
                                 RelationGetDescr(lookup.catalog), &is_null);
    if (is_null)
        return false;
    ArrayType* numbers = DatumGetArrayTypeP(columns);
    if (ARR_NDIM(numbers) != 1 || ARR_HASNULL(numbers) || ARR_ELEMTYPE(numbers) != INT2OID)
        return false;
    const auto* first = reinterpret_cast<const int16*>(ARR_DATA_PTR(numbers));
    for (int i = 0; i < ARR_DIMS(numbers)[0]; i++) {
        if (first[i] == column)
            return true;
    }
    return false;
}

ConstraintFacts facts_from(const FormData_pg_constraint* row) {
    return {row->oid,
            row->contype,
            row->connoinherit,
            row->convalidated,
            row->conislocal,
            row->coninhcount == 1 && !row->conislocal,
            row->contype == CONSTRAINT_FOREIGN ? row->confrelid : InvalidOid};
}

} // namespace

bool is_foreign_key(Oid constraint) {
    HeapTuple row = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
    if (!HeapTupleIsValid(row))
        return false;
    bool result = reinterpret_cast<const FormData_pg_constraint*>(GETSTRUCT(row))->contype ==
                  CONSTRAINT_FOREIGN;
    ReleaseSysCache(row);
    return result;
}

ColumnFacts facts_of_column(Oid relation, const char* name) {
    ColumnFacts facts = {};
    HeapTuple row = SearchSysCacheAttName(relation, name);
    if (!HeapTupleIsValid(row))
        return facts;
    const auto* columns = reinterpret_cast<const FormData_pg_attribute*>(GETSTRUCT(row));
    facts = {true, columns->attnum, columns->attnotnull,
             columns->attinhcount == 1 && !columns->attislocal};
    ReleaseSysCache(row);
    return facts;
}

ConstraintFacts facts_of_constraint(Oid relation, const char* name) {
    ConstraintFacts facts = {};
    Lookup lookup = constraints_of(relation);
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_constraint>(lookup, &tuple)) {
        if (strcmp(NameStr(row->conname), name) != 0)
            continue;
        facts = facts_from(row);
        break;
    }
    end(lookup);
    return facts;
}

ConstraintFacts facts_of_not_null(Oid relation, const char* column) {
    ConstraintFacts facts = {};
    if (!compat::kNotNullIsConstraint)
        return facts;
    AttrNumber number = facts_of_column(relation, column).number;
    if (number <= 0)
        return facts;
    Lookup lookup = constraints_of(relation);
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_constraint>(lookup, &tuple)) {
        if (row->contype != compat::kNotNullConstraint || !has_column(lookup, tuple, number))
            continue;
        facts = facts_from(row);
        break;
    }
    end(lookup);
    return facts;
}

List* foreign_keys_of(Oid relation, AttrNumber column) {
    List* found = NIL;
    Lookup lookup = constraints_of(relation);
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_constraint>(lookup, &tuple)) {
        if (row->contype == CONSTRAINT_FOREIGN &&
            (column == InvalidAttrNumber || has_column(lookup, tuple, column)))
            found = lappend_oid(found, row->oid);
    }
    end(lookup);
    return found;
}

List* foreign_keys_on(Oid relation, AttrNumber column) {
    List* found = NIL;
    ScanKeyData keys[3];
    ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(RelationRelationId));
    ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(relation));
    ScanKeyInit(&keys[2], Anum_pg_depend_refobjsubid, BTEqualStrategyNumber, F_INT4EQ,
                Int32GetDatum(column));
    Relation catalog = table_open(DependRelationId, AccessShareLock);
    Lookup lookup = {catalog,
                     systable_beginscan(catalog, DependReferenceIndexId, true, nullptr, 3, keys)};
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_depend>(lookup, &tuple)) {
        if (row->classid == ConstraintRelationId && is_foreign_key(row->objid))
            found = lappend_oid(found, row->objid);
    }
    end(lookup);
    return found;
}

bool refers_to(Oid relation, Oid other) {
    bool found = false;
    Lookup lookup = constraints_of(relation);
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_constraint>(lookup, &tuple))
        found |= row->contype == CONSTRAINT_FOREIGN && row->confrelid == other;
    end(lookup);
    return found;
}

namespace {

/// A foreign key, as seen from one of its two tables.
struct KeyEnd {
    Oid constraint;
    Oid parent;
    Oid other_table;
};

/// The other tables of those keys whose parent is not one of them.
List* other_tables(std::span<const KeyEnd> keys) {
    List* tables = NIL;
    for (const KeyEnd& key : keys) {
        bool has_parent = std::ranges::any_of(
            keys, [&key](const KeyEnd& other) { return other.constraint == key.parent; });
        if (!has_parent)
            tables = list_append_unique_oid(tables, key.other_table);
    }
    return tables;
}

List* other_tables_of(const Lookup& lookup, bool referenced) {
    GrowingArray<KeyEnd> keys;
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_constraint>(lookup, &tuple)) {
        if (row->contype == CONSTRAINT_FOREIGN)
            keys.add({row->oid, row->conparentid, referenced ? row->confrelid : row->conrelid});
    }
    return other_tables(keys.span());
}

} // namespace

List* referenced_by_keys_of(Oid relation) {
    Lookup lookup = constraints_of(relation);
    List* tables = other_tables_of(lookup, true);
    end(lookup);
    return tables;
}

List* referring_to(Oid relation) {
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_constraint_confrelid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(relation));
    Relation catalog = table_open(ConstraintRelationId, AccessShareLock);
    Lookup lookup = {catalog, systable_beginscan(catalog, InvalidOid, false, nullptr, 1, &key)};
    List* tables = other_tables_of(lookup, false);
    end(lookup);
    return tables;
}

List* relations_with_triggers_of(Oid constraint) {
    check_stack_depth();
    List* found = NIL;
    HeapTuple tuple;
    Lookup triggers = begin(TriggerRelationId, TriggerConstraintIndexId,
                            Anum_pg_trigger_tgconstraint, constraint);
    while (const auto* row = next<FormData_pg_trigger>(triggers, &tuple))
        found = lappend_oid(found, row->tgrelid);
    end(triggers);

    List* derived = NIL;
    Lookup children = begin(ConstraintRelationId, ConstraintParentIndexId,
                            Anum_pg_constraint_conparentid, constraint);
    while (const auto* row = next<FormData_pg_constraint>(children, &tuple))
        derived = lappend_oid(derived, row->oid);
    end(children);
    for (int i = 0; i < list_length(derived); i++)
        found = list_concat(found, relations_with_triggers_of(list_nth_oid(derived, i)));
    return found;
}

bool has_indexes(Oid relation) {
    // pg_class.relhasindex stays true for a while after the last one has gone.
    Lookup lookup = begin(IndexRelationId, IndexIndrelidIndexId, Anum_pg_index_indrelid, relation);
    bool found = HeapTupleIsValid(systable_getnext(lookup.scan));
    end(lookup);
    return found;
}

bool has_row_trigger(Oid relation, const char* name, bool also_internal) {
    bool found = false;
    Lookup lookup =
        begin(TriggerRelationId, TriggerRelidNameIndexId, Anum_pg_trigger_tgrelid, relation);
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_trigger>(lookup, &tuple)) {
        found |= TRIGGER_FOR_ROW(row->tgtype) && (also_internal || !row->tgisinternal) &&
                 (name == nullptr || strcmp(NameStr(row->tgname), name) == 0);
    }
    end(lookup);
    return found;
}

bool has_truncate_trigger(Oid relation) {
    bool found = false;
    Lookup lookup =
        begin(TriggerRelationId, TriggerRelidNameIndexId, Anum_pg_trigger_tgrelid, relation);
    HeapTuple tuple;
    while (const auto* row = next<FormData_pg_trigger>(lookup, &tuple))
        found |= TRIGGER_FOR_TRUNCATE(row->tgtype) != 0;
    end(lookup);
    return found;
}

Oid parent_of_pending_detach(Oid relation) {
    Oid parent = InvalidOid;
    HeapTuple tuple;
    Lookup lookup =
        begin(InheritsRelationId, InheritsRelidSeqnoIndexId, Anum_pg_inherits_inhrelid, relation);
    while (const auto* row = next<FormData_pg_inherits>(lookup, &tuple)) {
        if (row->inhdetachpending)
            parent = row->inhparent;
    }
    end(lookup);
    return parent;
}

Oid partitioned_parent(Oid relation) {
    if (!get_rel_relispartition(relation))
        return InvalidOid;
    // get_partition_parent() would raise an error if it were detached in this moment.
    const List* ancestors = get_partition_ancestors(relation);
    return ancestors == NIL ? InvalidOid : linitial_oid(ancestors);
}

} // namespace lockguard::pg
