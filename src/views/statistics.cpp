// SELECT * FROM pg_stat_lockguard, and pg_stat_lockguard_reset(): counters since the server's start
// or the latest reset. What is counted, and how that costs next to nothing: shmem/counters.

#include "shmem/counters.h"

#include "boundary/result_rows.h"
#include "shmem/segment.h"
#include "shmem/wait_table.h"

extern "C" {
#include "catalog/pg_type.h"

PG_FUNCTION_INFO_V1(pg_lockguard_statistics);
PG_FUNCTION_INFO_V1(pg_lockguard_statistics_reset);
}

namespace lockguard::features {

namespace {

enum class What : uint8 { counter, time, longest, reset_at };

/// A column: what it shows, and which of its kind. Times are double precision, in milliseconds, as
/// in PostgreSQL's own statistics views.
struct Column {
    What what;
    int which;
};

constexpr Column number_of(pg::Counter counter) {
    return {What::counter, static_cast<int>(counter)};
}
constexpr Column time_of(pg::Counter counter) {
    return {What::time, static_cast<int>(counter)};
}
constexpr Column longest_of(pg::Longest longest) {
    return {What::longest, static_cast<int>(longest)};
}

/// In the order of the SQL declaration.
constexpr Column kColumns[] = {
    number_of(pg::Counter::statements),
    number_of(pg::Counter::statements_immediate),
    number_of(pg::Counter::statements_waited),
    time_of(pg::Counter::wait_time),
    longest_of(pg::Longest::wait),
    number_of(pg::Counter::bursts),
    time_of(pg::Counter::stall_time),
    longest_of(pg::Longest::stall),
    number_of(pg::Counter::timeouts_lock),
    number_of(pg::Counter::timeouts_total),
    number_of(pg::Counter::deadlocks),
    number_of(pg::Counter::ddl_terminations),
    number_of(pg::Counter::terminations),
    number_of(pg::Counter::rehearsals),
    number_of(pg::Counter::rehearsals_needless),
    number_of(pg::Counter::cancellations),
    number_of(pg::Counter::cancel_rehearsals),
    number_of(pg::Counter::cancel_rehearsals_needless),
    number_of(pg::Counter::cancels_in_vain),
    number_of(pg::Counter::spared_prepared),
    number_of(pg::Counter::spared_replication),
    number_of(pg::Counter::spared_background),
    number_of(pg::Counter::spared_superuser),
    number_of(pg::Counter::spared_protected),
    number_of(pg::Counter::spared_role),
    number_of(pg::Counter::spared_database),
    number_of(pg::Counter::spared_application),
    number_of(pg::Counter::spared_snapshot),
    number_of(pg::Counter::spared_stalled),
    number_of(pg::Counter::spared_committing),
    number_of(pg::Counter::spared_no_client),
    number_of(pg::Counter::spared_changed),
    number_of(pg::Counter::fuses_blown),
    number_of(pg::Counter::stall_cancels),
    number_of(pg::Counter::stall_ended_waits),
    number_of(pg::Counter::stall_terminations),
    number_of(pg::Counter::stall_spared),
    number_of(pg::Counter::looks),
    number_of(pg::Counter::errors),
    number_of(pg::Counter::events_lost),
    number_of(pg::Counter::waits_evicted),
    {What::reset_at, 0},
};
constexpr int kColumnCount = lengthof(kColumns);

Datum milliseconds(uint64 microseconds) {
    return Float8GetDatum(static_cast<double>(microseconds) / 1000);
}

Datum value_of(Column column, const pg::Statistics& statistics) {
    switch (column.what) {
    case What::counter:
        return Int64GetDatum(static_cast<int64>(statistics.counters[column.which]));
    case What::time:
        return milliseconds(statistics.counters[column.which]);
    case What::longest:
        return milliseconds(static_cast<uint64>(statistics.longest[column.which]));
    case What::reset_at:
        return TimestampTzGetDatum(statistics.reset_at);
    }
    return Datum{0};
}

constexpr Oid type_of(Column column) {
    switch (column.what) {
    case What::counter:
        return INT8OID;
    case What::reset_at:
        return TIMESTAMPTZOID;
    default:
        return FLOAT8OID;
    }
}

} // namespace

} // namespace lockguard::features

/// pg_stat_lockguard() returns one row. Errors: 55000 where the library is not preloaded, or the
/// SQL declaration is of another version.
Datum pg_lockguard_statistics(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    using namespace lockguard::features;
    pg::require_shared_state();
    Oid types[kColumnCount];
    for (int i = 0; i < kColumnCount; i++)
        types[i] = type_of(kColumns[i]);
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_stat_lockguard()", types);
    pg::Statistics statistics = pg::read_statistics();
    pg::ResultRow<kColumnCount> row;
    for (int i = 0; i < kColumnCount; i++)
        row.set(i, value_of(kColumns[i], statistics));
    row.put(result);
    return Datum{0};
}

/// pg_stat_lockguard_reset(). Errors: 55000 where the library is not preloaded.
Datum pg_lockguard_statistics_reset(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    (void)fcinfo;
    pg::require_shared_state();
    pg::reset_statistics();
    pg::reset_waits();
    PG_RETURN_VOID();
}
