#include "sessions/backend_status.h"

#include "boundary/valid_text.h"

extern "C" {
#include "catalog/pg_authid.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
}

namespace lockguard::pg {

namespace {

// A slot changes a few times in a statement; somebody who changes it all the time is read later.
constexpr int kReadAttempts = 1000;

constexpr int kCacheLine = 64; // to prefetch by; a wrong guess does no harm

/// Runs copy(slot) until it saw a slot that did not change meanwhile. False where the slot is not
/// this session's (any more), or does not keep still. copy must not follow pointers that a torn
/// read could spoil; those of the slot are set once, by the postmaster.
template <class Copy>
bool read_slot(const SessionId& session, Copy copy) {
    const PgBackendStatus* slot = compat::status_slot(session.procno, session.pid);
    if (slot == nullptr)
        return false;
    for (int attempt = 0; attempt < kReadAttempts; attempt++) {
        int before;
        int after;
        pgstat_begin_read_activity(slot, before);
        bool same_session = slot->st_procpid == session.pid;
        if (same_session)
            copy(slot);
        pgstat_end_read_activity(slot, after);
        if (pgstat_read_activity_complete(before, after))
            return same_session;
        pg_spin_delay();
    }
    return false;
}

/// Copies a string of a slot, which always has a NUL in its last byte. Returns its length.
std::size_t copy_slot_text(char* target, const char* text, std::size_t size) {
    std::size_t length = strnlen(text, size - 1);
    memcpy(target, text, length);
    target[length] = '\0';
    return length;
}

/// Only the part of it that says anything: a Unix-domain socket has no address.
void copy_client_addr(SockAddr* target, const SockAddr& address) {
    target->addr.ss_family = address.addr.ss_family;
    if (target->addr.ss_family == AF_INET || target->addr.ss_family == AF_INET6)
        memcpy(target, &address, sizeof(*target));
}

/// A valid text that ends with a NUL in addition, of a string that was cut to fit into so many
/// bytes, and need not be valid: the session may be of another database.
text* terminated_text(const char* string, std::size_t length, std::size_t room) {
    auto* copy = static_cast<text*>(palloc(VARHDRSZ + length + 1));
    memcpy(VARDATA(copy), string, length);
    VARDATA(copy)[length] = '\0';
    SET_VARSIZE(copy, VARHDRSZ + make_valid(VARDATA(copy), length, length + 1 == room));
    return copy;
}

/// Where pg_authid is not to be had, what the server tells clients of the session's role is known
/// without it.
bool is_superuser(Oid role, NameLookup lookup) {
    if (lookup.globals)
        return superuser_arg(role);
    const char* of_session = GetConfigOption("is_superuser", true, false);
    return role == GetOuterUserId() && of_session != nullptr && strcmp(of_session, "on") == 0;
}

} // namespace

bool read_backend_status(const SessionId& session, BackendStatus* status) {
    // Room for the longest query text; its size is fixed at server start.
    static char* query;
    if (query == nullptr)
        query = static_cast<char*>(
            MemoryContextAlloc(TopMemoryContext, pgstat_track_activity_query_size));

    BackendStatus copy;
    char application_name[NAMEDATALEN];
    std::size_t application_name_length;
    std::size_t query_length;
    bool found = read_slot(session, [&](const PgBackendStatus* slot) {
        copy.type = slot->st_backendType;
        copy.state = slot->st_state;
        copy.xact_start = slot->st_xact_start_timestamp;
        copy.state_start = slot->st_state_start_timestamp;
        copy.proc_start = slot->st_proc_start_timestamp;
        copy.change_count = slot->st_changecount;
        copy.database = slot->st_databaseid;
        copy.role = slot->st_userid;
        copy_client_addr(&copy.client_addr, slot->st_clientaddr);
        application_name_length =
            copy_slot_text(application_name, slot->st_appname, sizeof(application_name));
        query_length =
            copy_slot_text(query, slot->st_activity_raw, pgstat_track_activity_query_size);
    });
    if (!found)
        return false;
    copy.application_name_text =
        terminated_text(application_name, application_name_length, sizeof(application_name));
    copy.query_text = terminated_text(query, query_length,
                                      static_cast<std::size_t>(pgstat_track_activity_query_size));
    copy.application_name = VARDATA(copy.application_name_text);
    copy.query = VARDATA(copy.query_text);
    *status = copy;
    return true;
}

void prefetch_backend_status(const SessionId& session) {
    const PgBackendStatus* slot = compat::status_slot(session.procno, session.pid);
    if (slot == nullptr)
        return;
    for (Size offset = 0; offset < sizeof(*slot); offset += kCacheLine)
        __builtin_prefetch(reinterpret_cast<const char*>(slot) + offset);
    // The strings lie in arrays beside the slots; the slot's own pointers would have to be waited
    // for. Two lines are as much as most queries need.
    std::ptrdiff_t index = slot - MyBEEntry;
    const char* query = MyBEEntry->st_activity_raw + index * pgstat_track_activity_query_size;
    __builtin_prefetch(query);
    __builtin_prefetch(query + kCacheLine);
    __builtin_prefetch(MyBEEntry->st_appname + index * NAMEDATALEN);
}

bool read_backend_state(const SessionId& session, BackendStateOnly* state) {
    return read_slot(session, [&](const PgBackendStatus* slot) {
        state->type = slot->st_backendType;
        state->state = slot->st_state;
        state->xact_start = slot->st_xact_start_timestamp;
        state->state_start = slot->st_state_start_timestamp;
        state->change_count = slot->st_changecount;
    });
}

core::Timestamp transaction_start(const SessionId& session) {
    BackendStateOnly state;
    return session.pid != 0 && read_backend_state(session, &state) && state.xact_start != 0
               ? state.xact_start
               : core::kUnknownTime;
}

bool is_wraparound_vacuum(const SessionId& session) {
    const PGPROC* proc = GetPGProcByNumber(session.procno);
    LWLockAcquire(ProcArrayLock, LW_SHARED);
    uint8 flags = proc->pid == session.pid ? ProcGlobal->statusFlags[proc->pgxactoff] : 0;
    LWLockRelease(ProcArrayLock);
    return (flags & PROC_IS_AUTOVACUUM) != 0 && (flags & PROC_VACUUM_FOR_WRAPAROUND) != 0;
}

bool may_see_details(Oid role, NameLookup lookup) {
    return may_see_details(GetUserId(), role, lookup);
}

bool may_see_details(Oid reader, Oid role, NameLookup lookup) {
    if (!lookup.memberships)
        return reader == role || is_superuser(reader, lookup);
    return has_privs_of_role(reader, ROLE_PG_READ_ALL_STATS) || has_privs_of_role(reader, role);
}

const char* state_name(BackendState state) {
    switch (state) {
    case STATE_IDLE:
        return "idle";
    case STATE_RUNNING:
        return "active";
    case STATE_IDLEINTRANSACTION:
        return "idle in transaction";
    case STATE_FASTPATH:
        return "fastpath function call";
    case STATE_IDLEINTRANSACTION_ABORTED:
        return "idle in transaction (aborted)";
    case STATE_DISABLED:
        return "disabled";
    default:
        return compat::newer_state_name(state);
    }
}

bool is_idle_in_transaction(BackendState state) {
    return state == STATE_IDLEINTRANSACTION || state == STATE_IDLEINTRANSACTION_ABORTED;
}

bool is_active(BackendState state) {
    return state == STATE_RUNNING || state == STATE_FASTPATH;
}

const char* backend_type_name(BackendType type, int pid) {
    if (type != B_BG_WORKER)
        return GetBackendTypeDesc(type);
    // A buffer's, which the next call fills anew.
    const char* name = GetBackgroundWorkerTypeByPid(pid);
    return name == nullptr ? nullptr : valid_copy(name);
}

bool reads_from_client(int procno) {
    const PGPROC* proc = GetPGProcByNumber(procno);
    return *const_cast<volatile const uint32*>(&proc->wait_event_info) == WAIT_EVENT_CLIENT_READ;
}

} // namespace lockguard::pg
