// SELECT * FROM pg_stat_lockguard_waits: accumulated waits since the server's start or the latest
// reset. How they are sampled: core/wait_account.

#include "boundary/bridge.h"
#include "boundary/result_rows.h"
#include "sessions/object_names.h"
#include "shmem/wait_table.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_wait_statistics);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_datname,
    col_lock_type,
    col_relid,
    col_relation,
    col_lock_mode,
    col_blocker_usename,
    col_blocker_application_name,
    col_waits,
    col_wait_time,
    col_max_wait_time,
    col_stats_reset,
    column_count
};

constexpr Oid kTypes[column_count] = {
    NAMEOID, TEXTOID, OIDOID,    TEXTOID,   TEXTOID,        NAMEOID,
    TEXTOID, INT8OID, FLOAT8OID, FLOAT8OID, TIMESTAMPTZOID,
};

Datum milliseconds(int64 microseconds) {
    return Float8GetDatum(static_cast<double>(microseconds) / 1000);
}

void put_row(const pg::WaitEntry& entry, TimestampTz reset_at, pg::NameLookup names,
             ReturnSetInfo* result) {
    const core::WaitKey& key = entry.key;
    pg::ResultRow<column_count> row;
    auto set_text = [&row](Column column, const char* text) {
        row.set(column, CStringGetTextDatum(text));
    };
    row.set_name(col_datname, pg::database_name(key.database, names));
    if (key.lock_type <= LOCKTAG_LAST_TYPE)
        set_text(col_lock_type, LockTagTypeNames[key.lock_type]);
    else
        set_text(col_lock_type, "safesnapshot");
    if (OidIsValid(key.relation)) {
        LOCKTAG tag;
        SET_LOCKTAG_RELATION(tag, key.relation_database, key.relation);
        row.set(col_relid, ObjectIdGetDatum(key.relation));
        set_text(col_relation, pg::locked_object_text(tag, names));
    }
    if (key.mode != NoLock && key.mode <= MaxLockMode)
        set_text(col_lock_mode, GetLockmodeName(DEFAULT_LOCKMETHOD, key.mode));
    row.set_name(col_blocker_usename, pg::role_name(key.blocker_role, names));
    std::string_view application(
        key.blocker_application.data(),
        strnlen(key.blocker_application.data(), key.blocker_application.size() - 1));
    row.set(col_blocker_application_name,
            pg::valid_text_value(application,
                                 application.size() == key.blocker_application.size() - 1));
    row.set(col_waits, Int64GetDatum(entry.waits));
    row.set(col_wait_time, milliseconds(entry.time));
    row.set(col_max_wait_time, milliseconds(entry.longest));
    row.set(col_stats_reset, TimestampTzGetDatum(reset_at));
    row.put(result);
}

} // namespace

} // namespace lockguard::features

/// pg_stat_lockguard_waits() returns setof record. Errors: 55000 where the library is not
/// preloaded, or the SQL declaration is of another version.
Datum pg_lockguard_wait_statistics(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    pg::require_shared_state();
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_stat_lockguard_waits()", features::kTypes);
    TimestampTz reset_at;
    auto entries = pg::read_waits(&reset_at);
    MemoryContext row_context =
        AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard waits", ALLOCSET_DEFAULT_SIZES);
    pg::NameLookup names = pg::open_name_lookup();
    MemoryContext caller = MemoryContextSwitchTo(row_context);
    for (const pg::WaitEntry& entry : entries) {
        CHECK_FOR_INTERRUPTS();
        features::put_row(entry, reset_at, names, result);
        MemoryContextReset(row_context);
    }
    MemoryContextSwitchTo(caller);
    pg::close_name_lookup(names);
    MemoryContextDelete(row_context);
    return Datum{0};
}
