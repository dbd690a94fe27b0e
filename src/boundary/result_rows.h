// Rows of a set-returning function, and the check that its SQL declaration is the library's.
#pragma once

#include <algorithm>
#include <span>
#include <string_view>

#include "boundary/compat.h"

extern "C" {
#include "utils/builtins.h"
}

namespace lockguard::pg {

/// Raises 55000 where the SQL declaration of a function does not have these columns: it is of
/// another version than the library. (After an update of the package the server may run on with the
/// old library; ALTER EXTENSION ... UPDATE may have been forgotten.) Else it makes the result's
/// descriptor, and the result is empty as long as no store is opened.
///
/// \param name   "lock_tree()"
/// \param types  of the columns
void check_declaration(FunctionCallInfo fcinfo, const char* name, std::span<const Oid> types);

/// Opens the tuple store, for rows of about so many bytes altogether. Its memory does not grow in
/// powers of two, as that of an ordinary store does up to 17.
void open_result_store(FunctionCallInfo fcinfo, Size expected_bytes);

/// check_declaration(), and opens the tuple store.
ReturnSetInfo* begin_result(FunctionCallInfo fcinfo, const char* name, std::span<const Oid> types);

/// Values, in the current memory context.
/// Of text that may have been written in a database of another encoding, and cut (see
/// make_valid()).
Datum valid_text_value(std::string_view text, bool cut);
/// Of a drawing of the core's (UTF-8): in ASCII where the database can't store it.
Datum drawing_value(std::string_view drawing);
/// The same with text in it, which is made valid.
Datum labeled_drawing_value(std::string_view drawing);
Datum name_value(const char* text);
/// Microseconds as an interval of days and time.
Datum interval_value(int64 duration);

/// One row to be, of N columns. Starts as all nulls.
template <int N>
struct ResultRow {
    Datum values[N];
    bool nulls[N];

    ResultRow() : values{} { std::fill(std::begin(nulls), std::end(nulls), true); }

    void set(int column, Datum value) {
        values[column] = value;
        nulls[column] = false;
    }
    /// A name that may be unknown (null).
    void set_name(int column, const char* name) {
        if (name != nullptr)
            set(column, name_value(name));
    }
    /// Text that may be unknown (null), or of which there is none.
    void set_text(int column, const char* text) {
        if (text != nullptr && text[0] != '\0')
            set(column, CStringGetTextDatum(text));
    }
    /// Text in a field of M bytes, which may have cut it: as for valid_text_value().
    template <std::size_t M>
    void set_field(int column, const char (&field)[M]) {
        std::string_view text(field, strnlen(field, M - 1));
        if (!text.empty())
            set(column, valid_text_value(text, text.size() == M - 1));
    }
    void put(ReturnSetInfo* result) {
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
};

} // namespace lockguard::pg
