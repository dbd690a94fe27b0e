#include "guard/file_map.h"

extern "C" {
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

namespace {

bool is_mapped(const RangeVar* name) {
    Oid relation = name == nullptr ? InvalidOid : RangeVarGetRelid(name, NoLock, true);
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
    if (!HeapTupleIsValid(row))
        return false;
    const auto* columns = reinterpret_cast<const FormData_pg_class*>(GETSTRUCT(row));
    const bool mapped = RELKIND_HAS_STORAGE(columns->relkind) && !OidIsValid(columns->relfilenode);
    ReleaseSysCache(row);
    return mapped;
}

} // namespace

bool changes_file_map(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_ReindexStmt:
        return is_mapped(reinterpret_cast<const ReindexStmt*>(statement)->relation);
    case compat::kClusterStatement:
        return is_mapped(compat::clustered_table(statement));
    default:
        return false;
    }
}

} // namespace lockguard::pg
