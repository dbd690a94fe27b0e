// SELECT * FROM pg_lockguard_statements(PID): the last statements of the present transaction of a
// session (shmem/tracked_statements), oldest first. Who may see the session's query in
// pg_stat_activity sees them; anybody else sees that there are some.

#include "boundary/memory.h"
#include "boundary/result_rows.h"
#include "boundary/valid_text.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"
#include "shmem/tracked_statements.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_statements);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int { col_number, col_began, col_command, col_query, col_relations, column_count };

constexpr Oid kTypes[column_count] = {INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTARRAYOID};

void require_tracking() {
    pg::require_shared_state();
    if (pg::tracks_statements())
        return;
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("statements are not kept"),
             errdetail("pg_lockguard.track_statements is 0."),
             errhint("Set pg_lockguard.track_statements to 1 to %d and restart the server.",
                     pg::kMostTrackedStatements)));
}

/// The relations that the statement touched first, in words.
Datum touched_relations(const pg::TrackedTransaction& transaction, uint32 number, Oid database,
                        pg::NameLookup names) {
    auto* texts = pg::new_array<Datum>(transaction.touch_count);
    int count = 0;
    for (int i = 0; i < transaction.touch_count; i++) {
        if (transaction.touches[i].statement != number)
            continue;
        LOCKTAG tag;
        SET_LOCKTAG_RELATION(tag, database, transaction.touches[i].relation);
        texts[count++] = CStringGetTextDatum(pg::locked_object_text(tag, names));
    }
    return PointerGetDatum(construct_array(texts, count, TEXTOID, -1, false, TYPALIGN_INT));
}

void put_masked_row(ReturnSetInfo* result) {
    pg::ResultRow<column_count> row;
    row.set(col_query, CStringGetTextDatum("<insufficient privilege>"));
    row.put(result);
}

void put_row(const pg::TrackedTransaction& transaction, const pg::TrackedStatement& statement,
             Oid database, pg::NameLookup names, ReturnSetInfo* result) {
    pg::ResultRow<column_count> row;
    row.set(col_number, Int32GetDatum(static_cast<int32>(statement.number)));
    row.set(col_began, TimestampTzGetDatum(statement.began));
    row.set(col_command, CStringGetTextDatum(GetCommandTagName(statement.command)));
    row.set(col_query, pg::valid_text_value({statement.text, statement.size}, statement.cut));
    row.set(col_relations, touched_relations(transaction, statement.number, database, names));
    row.put(result);
}

void put_rows(int pid, ReturnSetInfo* result) {
    const PGPROC* proc = BackendPidGetProc(pid);
    if (proc == nullptr)
        return;
    const pg::SessionId session = {pg::compat::procno_of(proc), pid};
    auto* transaction = pg::new_object<pg::TrackedTransaction>();
    pg::BackendStatus status;
    if (!pg::read_tracked_transaction(session.procno, transaction) || transaction->pid != pid ||
        !pg::read_backend_status(session, &status))
        return;
    pg::NameLookup names = pg::open_name_lookup();
    if (!pg::may_see_details(status.role, names)) {
        put_masked_row(result);
    } else {
        for (int i = 0; i < transaction->statement_count; i++)
            put_row(*transaction, transaction->statements[i], status.database, names, result);
    }
    pg::close_name_lookup(names);
}

} // namespace

} // namespace lockguard::features

/// pg_lockguard_statements(pid int4). No row for a pid that is no session's, or whose transaction
/// has no statements: it is in no transaction block. Errors: 55000 where the library is not
/// preloaded, statements are not kept, or the SQL declaration is of another version than the
/// library; 53200.
Datum pg_lockguard_statements(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    features::require_tracking();
    ReturnSetInfo* result = pg::begin_result(fcinfo, "pg_lockguard_statements()", features::kTypes);
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard statements",
                                                  ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    features::put_rows(PG_GETARG_INT32(0), result);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return Datum{0};
}
