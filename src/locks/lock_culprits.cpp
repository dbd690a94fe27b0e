#include "locks/lock_culprits.h"

#include <algorithm>

#include "sessions/backend_status.h"

namespace lockguard::pg {

namespace {

/// One holder, with what it is sorted by.
struct Found {
    core::Culprit culprit;
    TimestampTz xact_start; // PG_INT64_MAX where unknown, so that it comes last
    bool newcomer;          // began its transaction and its statement after the wait began
};

/// What is looked for, and for whom.
struct Search {
    const FailedLockWait& wait;
    const Reader& reader;
    NameLookup lookup;
};

std::string_view view_of(const char* text) {
    return text == nullptr ? std::string_view() : std::string_view(text);
}

bool may_see(const Reader& reader, Oid role, NameLookup lookup) {
    return may_see_details(reader.current_user, role, lookup) &&
           (reader.outer_user == reader.current_user ||
            may_see_details(reader.outer_user, role, lookup));
}

core::Microseconds age(TimestampTz since) {
    return since == 0 ? -1 : GetCurrentTimestamp() - since;
}

Found describe_session(const PGPROC* proc, int pid, const Search& search) {
    Found found = {};
    core::Culprit& culprit = found.culprit;
    culprit.pid = pid;
    culprit.state_age = -1;
    found.xact_start = PG_INT64_MAX;

    BackendStatus status;
    if (!read_backend_status({compat::procno_of(proc), pid}, &status))
        return found; // it has ended just now: its pid is all that is known
    culprit.application = status.application_name;
    culprit.role = view_of(role_name(status.role, search.lookup));
    if (status.type != B_BACKEND)
        culprit.process = view_of(backend_type_name(status.type, pid));
    culprit.against_wraparound =
        status.type == B_AUTOVAC_WORKER && is_wraparound_vacuum({compat::procno_of(proc), pid});
    if (status.xact_start != 0)
        found.xact_start = status.xact_start;
    // Both: VACUUM and CREATE INDEX CONCURRENTLY keep their locks from one transaction to the next.
    found.newcomer =
        status.xact_start > search.wait.started_at && status.state_start > search.wait.started_at;

    culprit.visible = may_see(search.reader, status.role, search.lookup);
    if (culprit.visible) {
        culprit.idle_in_transaction = is_idle_in_transaction(status.state);
        culprit.state = view_of(state_name(status.state));
        culprit.state_age = age(status.state_start);
        culprit.query = status.query;
    }
    return found;
}

/// pg_prepared_xacts shows all of this to everybody.
bool describe_prepared(TransactionId xid, NameLookup lookup, Found* found) {
    PreparedTransaction prepared;
    if (!find_prepared_transaction(xid, lookup, &prepared))
        return false; // committed or rolled back just now
    *found = {};
    found->culprit.gid = view_of(prepared.gid);
    found->culprit.visible = true;
    found->culprit.state = "prepared";
    found->culprit.state_age = age(prepared.prepared_at);
    found->xact_start = prepared.prepared_at;
    return true;
}

/// Who a virtual transaction id of GetLockConflicts stands for. Returns false where it has ended,
/// or came later than the wait.
bool describe_holder(VirtualTransactionId vxid, const Search& search, Found* found) {
    // One that was prepared before the server's last start has no backend, and its xid as its lxid.
    if (VirtualTransactionIdIsRecoveredPreparedXact(vxid))
        return describe_prepared(vxid.localTransactionId, search.lookup, found);

    // Read without a lock, as GetLockConflicts itself does; a wrong moment only means "ended".
    const PGPROC* proc = compat::proc_of_vxid(vxid);
    if (proc != nullptr && compat::lxid_of(proc) == vxid.localTransactionId) {
        const PGPROC* leader = proc->lockGroupLeader;
        if (leader != nullptr && leader->pid != 0)
            proc = leader;
        int pid = proc->pid;
        if (pid == 0)
            return false;
        *found = describe_session(proc, pid, search);
        return !found->newcomer;
    }

    // PREPARE TRANSACTION left the virtual transaction id with the prepared transaction.
    bool have_more;
    TransactionId xid = TwoPhaseGetXidByVirtualXID(vxid, &have_more);
    return TransactionIdIsValid(xid) && describe_prepared(xid, search.lookup, found);
}

/// Holders, in an array with room for all of them.
struct Holders {
    Found* found;
    std::size_t count;
};

bool is_same(const core::Culprit& left, const core::Culprit& right) {
    return left.pid == right.pid && left.gid == right.gid;
}

bool comes_before(const Found& left, const Found& right) {
    if (left.xact_start != right.xact_start)
        return left.xact_start < right.xact_start;
    if (left.culprit.pid != right.culprit.pid)
        return left.culprit.pid < right.culprit.pid;
    return left.culprit.gid < right.culprit.gid;
}

/// Counts the holder that has been put behind the others, unless it is there already.
void keep_last(Holders* holders) {
    const Found& last = holders->found[holders->count];
    bool known =
        std::any_of(holders->found, holders->found + holders->count,
                    [&](const Found& other) { return is_same(other.culprit, last.culprit); });
    if (!known)
        holders->count++;
}

Holders make_room(int size) {
    return {static_cast<Found*>(palloc(static_cast<std::size_t>(size) * sizeof(Found))), 0};
}

/// Those whose transaction goes on.
Holders find_transactions(const Search& search) {
    int conflicts;
    const VirtualTransactionId* vxids =
        GetLockConflicts(&search.wait.tag, search.wait.mode, &conflicts);
    Holders holders = make_room(conflicts);
    for (int i = 0; i < conflicts; i++) {
        if (describe_holder(vxids[i], search, &holders.found[holders.count]))
            keep_last(&holders);
    }
    return holders;
}

/// Those that hold it for their session (pg_advisory_lock(), or a command that works in several
/// transactions) and are in no transaction now: GetLockConflicts leaves them out.
Holders find_sessions(const Search& search) {
    const LOCKTAG& tag = search.wait.tag;
    const LockData* data = GetLockStatusData();
    const std::span<const LockInstanceData> locks(data->locks,
                                                  static_cast<std::size_t>(data->nelements));
    const LOCKMASK conflicts = GetLockTagsMethodTable(&tag)->conflictTab[search.wait.mode];
    auto in_the_way = [&](const LockInstanceData& lock) {
        return (lock.holdMask & conflicts) != 0 && lock.pid != 0 && lock.pid != MyProcPid &&
               memcmp(&lock.locktag, &tag, sizeof(tag)) == 0;
    };
    Holders holders = make_room(static_cast<int>(std::ranges::count_if(locks, in_the_way)));
    for (const LockInstanceData& lock : locks) {
        const PGPROC* proc = in_the_way(lock) ? BackendPidGetProc(lock.pid) : nullptr;
        if (proc == nullptr)
            continue; // another lock, or the session has ended just now
        holders.found[holders.count] = describe_session(proc, lock.pid, search);
        keep_last(&holders);
    }
    return holders;
}

} // namespace

Reader current_reader() {
    return {GetUserId(), GetOuterUserId()};
}

std::span<const core::Culprit> find_lock_culprits(const FailedLockWait& wait, const Reader& reader,
                                                  NameLookup lookup) {
    const Search search = {wait, reader, lookup};
    Holders holders = find_transactions(search);
    if (holders.count == 0)
        holders = find_sessions(search);
    std::sort(holders.found, holders.found + holders.count, comes_before);

    auto* culprits = static_cast<core::Culprit*>(palloc(holders.count * sizeof(core::Culprit)));
    for (std::size_t i = 0; i < holders.count; i++)
        culprits[i] = holders.found[i].culprit;
    return {culprits, holders.count};
}

} // namespace lockguard::pg
