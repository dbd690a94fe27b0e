// State, query and ages of chosen sessions, straight from their PgBackendStatus slots.
//
// The pgstat accessors copy every slot of the server with its strings; this reads one slot for each
// session asked for, without a lock (the slots have a change counter instead).
#pragma once

#include "core/time.h"

#include "boundary/compat.h"
#include "sessions/object_names.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// What a slot says. Strings are allocated in the current memory context, and valid in this
/// session's database (boundary/valid_text).
struct BackendStatus {
    BackendType type;
    BackendState state;
    TimestampTz xact_start;  // 0 where not in a transaction
    TimestampTz state_start; // 0 where unknown
    TimestampTz proc_start;  // when the session began
    int change_count;        // goes on with each change of the slot
    Oid database;
    Oid role; // InvalidOid for most background processes
    SockAddr client_addr;
    const char* application_name; // "" where there is none
    const char* query;            // ends with a whole character
    text* application_name_text;  // the same two, ready for a row
    text* query_text;
};

/// The state of a session alone: no strings, no allocation, safe under an LWLock.
struct BackendStateOnly {
    BackendType type;
    BackendState state;
    TimestampTz xact_start; // 0 where not in a transaction
    TimestampTz state_start;
    int change_count;
};

/// Reads the slot of a session, in whatever transaction. Returns false, and leaves *status alone,
/// where the session has ended or its slot changes too fast to be read (both are rare and mean the
/// same to callers: unknown). May ereport out of memory.
bool read_backend_status(const SessionId& session, BackendStatus* status);

/// Asks the processor to load what read_backend_status() is going to read soon.
void prefetch_backend_status(const SessionId& session);

/// The same for the state alone. Never ereports, never allocates.
bool read_backend_state(const SessionId& session, BackendStateOnly* state);

/// When the session's transaction began; core::kUnknownTime where it is in none, or that is not
/// known, as of a prepared transaction. Never ereports, never allocates.
core::Timestamp transaction_start(const SessionId& session);

/// Does this process do an autovacuum that no request for a lock interrupts? Takes ProcArrayLock.
bool is_wraparound_vacuum(const SessionId& session);

/// May the current user see the details of a session of this role: state, query, ages, client
/// address, wait event? The rule of pg_stat_activity: members of pg_read_all_stats and of the role.
/// Never waits for a catalog: while memberships are not to be had, a role sees its own sessions,
/// and a superuser all; while roles are not to be had either, whoever logged in as a superuser, or
/// became one by SET ROLE, counts as that.
bool may_see_details(Oid role, NameLookup lookup);

/// The same for another reader than the current user.
bool may_see_details(Oid reader, Oid role, NameLookup lookup);

/// As pg_stat_activity.state; null for an undefined state.
const char* state_name(BackendState state);

/// "idle in transaction", aborted or not.
bool is_idle_in_transaction(BackendState state);

/// It works on a statement or a function call of its client.
bool is_active(BackendState state);

/// As pg_stat_activity.backend_type, and valid text. May be null (a background worker that has just
/// ended). A background worker's is in the current memory context.
const char* backend_type_name(BackendType type, int pid);

/// Does a session read from its client? Where it is active, it is in the midst of a statement (COPY
/// FROM STDIN) or between the messages of one. Looks without a lock.
bool reads_from_client(int procno);

} // namespace lockguard::pg
