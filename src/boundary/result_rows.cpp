#include "boundary/result_rows.h"

#include "core/tree_drawing.h"
#include "boundary/valid_text.h"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
}

namespace lockguard::pg {

namespace {

/// Makes the descriptor of a materialized result, from the function's declaration. Where no store
/// is opened, the result is empty.
void init_materialized_descriptor(FunctionCallInfo fcinfo) {
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    if (result == nullptr || !IsA(result, ReturnSetInfo))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("set-valued function called in context that cannot accept a set")));
    if (!(result->allowedModes & SFRM_Materialize))
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("materialize mode required, but it is not allowed in this context")));

    MemoryContext caller = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
    TupleDesc descriptor;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    MemoryContextSwitchTo(caller);
    result->returnMode = SFRM_Materialize;
    result->setDesc = descriptor;
}

/// Where the rows go. It belongs to the place that the function is called from, which may call it
/// many times in one query: each store leaves it empty.
MemoryContext store_context(FunctionCallInfo fcinfo, Size expected_bytes) {
    FmgrInfo* function = fcinfo->flinfo;
    if (function->fn_extra == nullptr) {
        // Beyond work_mem they go to disk. The store itself takes 16 kB.
        Size bytes = Min(expected_bytes, static_cast<Size>(work_mem) * 1024);
        Size block = MAXALIGN(Min(bytes, MaxAllocSize / 2) + 24 * 1024);
        function->fn_extra = GenerationContextCreate(function->fn_mcxt, "pg_lockguard result", 0,
                                                     block, Max(block, 1024 * 1024));
    }
    return static_cast<MemoryContext>(function->fn_extra);
}

} // namespace

void check_declaration(FunctionCallInfo fcinfo, const char* name, std::span<const Oid> types) {
    init_materialized_descriptor(fcinfo);
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    int declared = result->setDesc->natts;
    auto expected = static_cast<int>(types.size());
    bool same = declared == expected;
    for (int i = 0; same && i < declared; i++)
        same = TupleDescAttr(result->setDesc, i)->atttypid == types[i];
    if (!same)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("%s was declared by another version of pg_lockguard", name),
                 declared != expected
                     ? errdetail("The function has %d columns, the library %d.", declared, expected)
                     : errdetail("The function's columns have other types than the library's."),
                 errhint("Run ALTER EXTENSION pg_lockguard UPDATE, or reconnect to get the library "
                         "that is installed.")));
}

void open_result_store(FunctionCallInfo fcinfo, Size expected_bytes) {
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    MemoryContext context = compat::kTupleStoreGrowsByDoubling
                                ? store_context(fcinfo, expected_bytes)
                                : result->econtext->ecxt_per_query_memory;
    MemoryContext caller = MemoryContextSwitchTo(context);
    result->setResult = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
                                              false, work_mem);
    MemoryContextSwitchTo(caller);
}

ReturnSetInfo* begin_result(FunctionCallInfo fcinfo, const char* name, std::span<const Oid> types) {
    check_declaration(fcinfo, name, types);
    open_result_store(fcinfo, 0);
    return reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
}

namespace {

/// With room for a NUL behind it.
text* new_text(std::string_view content) {
    auto* value = static_cast<text*>(palloc(VARHDRSZ + content.size() + 1));
    SET_VARSIZE(value, VARHDRSZ + content.size());
    content.copy(VARDATA(value), content.size());
    VARDATA(value)[content.size()] = '\0';
    return value;
}

text* made_valid(text* value, bool cut) {
    SET_VARSIZE(value, VARHDRSZ + make_valid(VARDATA(value), VARSIZE(value) - VARHDRSZ, cut));
    return value;
}

text* new_drawing(std::string_view drawing) {
    text* value = new_text(drawing);
    int encoding = GetDatabaseEncoding();
    if (encoding != PG_UTF8 && encoding != PG_SQL_ASCII) {
        std::size_t length = core::redraw_in_ascii({VARDATA(value), drawing.size()});
        VARDATA(value)[length] = '\0';
        SET_VARSIZE(value, VARHDRSZ + length);
    }
    return value;
}

} // namespace

Datum valid_text_value(std::string_view text, bool cut) {
    return PointerGetDatum(made_valid(new_text(text), cut));
}

Datum drawing_value(std::string_view drawing) {
    return PointerGetDatum(new_drawing(drawing));
}

Datum labeled_drawing_value(std::string_view drawing) {
    return PointerGetDatum(made_valid(new_drawing(drawing), false));
}

Datum name_value(const char* text) {
    auto name = static_cast<Name>(palloc0(sizeof(NameData)));
    namestrcpy(name, text);
    return NameGetDatum(name);
}

Datum interval_value(int64 duration) {
    auto* interval = static_cast<Interval*>(palloc0(sizeof(Interval)));
    interval->day = static_cast<int32>(duration / USECS_PER_DAY);
    interval->time = duration % USECS_PER_DAY;
    return IntervalPGetDatum(interval);
}

} // namespace lockguard::pg
