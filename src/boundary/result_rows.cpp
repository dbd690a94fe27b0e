#include "boundary/result_rows.h"

#include "core/tree_drawing.h"
#include "boundary/valid_text.h"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
}

namespace lockguard::pg {

void check_declaration(FunctionCallInfo fcinfo, const char* name, std::span<const Oid> types) {
    compat::init_materialized_descriptor(fcinfo);
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

ReturnSetInfo* begin_result(FunctionCallInfo fcinfo, const char* name, std::span<const Oid> types) {
    check_declaration(fcinfo, name, types);
    compat::open_result_store(fcinfo, 0);
    return reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
}

namespace {

/// With room for a NUL behind it.
text* new_text(std::string_view content) {
    auto* value = static_cast<text*>(palloc(VARHDRSZ + content.size() + 1));
    SET_VARSIZE(value, VARHDRSZ + content.size());
    memcpy(VARDATA(value), content.data(), content.size());
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
