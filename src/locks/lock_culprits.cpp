#include "locks/lock_culprits.h"

#include <algorithm>

#include "boundary/memory.h"
#include "boundary/valid_text.h"
#include "sessions/backend_status.h"
#include "shmem/tracked_statements.h"

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
    const AwaitedLock& wait;
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

core::Microseconds age_now(TimestampTz since) {
    return core::age(since, GetCurrentTimestamp());
}

/// Which statement of its transaction touched the relation first, where that is known, and it is
/// not the one that culprit->query is.
void describe_first_statement(const SessionId& session, const LOCKTAG& tag,
                              core::Culprit* culprit) {
    if (tag.locktag_type != LOCKTAG_RELATION || !tracks_statements())
        return;
    auto* transaction = new_object<TrackedTransaction>();
    if (!read_tracked_transaction(session.procno, transaction) || transaction->pid != session.pid)
        return;
    const TrackedStatement* first = first_to_touch(*transaction, tag.locktag_field2);
    if (first == nullptr)
        return;
    const char* text = valid_copy({first->text, first->size});
    if (culprit->query.find(text) != std::string_view::npos)
        return;
    culprit->first_statement = text;
    culprit->first_statement_age = age_now(first->began);
}

Found describe_session(const SessionId& session, const Search& search) {
    Found found = {};
    core::Culprit& culprit = found.culprit;
    culprit.pid = session.pid;
    culprit.state_age = core::kNoAge;
    found.xact_start = PG_INT64_MAX;

    BackendStatus status;
    if (!read_backend_status(session, &status))
        return found; // it has ended just now: its pid is all that is known
    culprit.application = status.application_name;
    culprit.role = view_of(role_name(status.role, search.lookup));
    if (status.type != B_BACKEND)
        culprit.process = view_of(backend_type_name(status.type, session.pid));
    culprit.against_wraparound = status.type == B_AUTOVAC_WORKER && is_wraparound_vacuum(session);
    if (status.xact_start != 0)
        found.xact_start = status.xact_start;
    // Both: VACUUM and CREATE INDEX CONCURRENTLY keep their locks from one transaction to the next.
    found.newcomer =
        status.xact_start > search.wait.started_at && status.state_start > search.wait.started_at;

    culprit.visible = may_see(search.reader, status.role, search.lookup);
    if (culprit.visible) {
        culprit.idle_in_transaction = is_idle_in_transaction(status.state);
        culprit.state = view_of(state_name(status.state));
        culprit.state_age = age_now(status.state_start);
        culprit.query = status.query;
        describe_first_statement(session, search.wait.tag, &culprit);
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
    found->culprit.state_age = age_now(prepared.prepared_at);
    found->xact_start = prepared.prepared_at;
    return true;
}

/// Who a virtual transaction id of GetLockConflicts stands for. Returns false where it has ended,
/// or came later than the wait.
bool describe_holder(VirtualTransactionId vxid, const Search& search, Found* found) {
    // One that was prepared before the server's last start has no backend, and its xid as its lxid.
    if (VirtualTransactionIdIsRecoveredPreparedXact(vxid))
        return describe_prepared(vxid.localTransactionId, search.lookup, found);

    SessionId session;
    if (find_session(vxid, &session)) {
        *found = describe_session(leading_session(session), search);
        return !found->newcomer;
    }

    // PREPARE TRANSACTION left the virtual transaction id with the prepared transaction.
    bool have_more;
    TransactionId xid = TwoPhaseGetXidByVirtualXID(vxid, &have_more);
    return TransactionIdIsValid(xid) && describe_prepared(xid, search.lookup, found);
}

using Founds = GrowingArray<Found>;

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

void add(Founds* founds, const Found& found) {
    bool known = std::any_of(founds->begin(), founds->end(), [&](const Found& other) {
        return is_same(other.culprit, found.culprit);
    });
    if (!known)
        founds->add(found);
}

/// Those whose transaction goes on.
Founds find_transactions(const Search& search) {
    int count;
    const VirtualTransactionId* vxids =
        GetLockConflicts(&search.wait.tag, search.wait.mode, &count);
    Founds founds;
    for (int i = 0; i < count; i++) {
        Found found;
        if (describe_holder(vxids[i], search, &found))
            add(&founds, found);
    }
    return founds;
}

/// Those that hold it for their session (pg_advisory_lock(), or a command that works in several
/// transactions) and are in no transaction now: GetLockConflicts leaves them out.
Founds find_sessions(const Search& search) {
    const LOCKTAG& tag = search.wait.tag;
    const LockData* data = GetLockStatusData();
    const LOCKMASK conflicts = GetLockTagsMethodTable(&tag)->conflictTab[search.wait.mode];
    Founds founds;
    for (int i = 0; i < data->nelements; i++) {
        const LockInstanceData& lock = data->locks[i];
        if ((lock.holdMask & conflicts) == 0 || lock.pid == 0 || lock.pid == MyProcPid ||
            memcmp(&lock.locktag, &tag, sizeof(tag)) != 0)
            continue;
        const PGPROC* proc = BackendPidGetProc(lock.pid);
        if (proc != nullptr) // else the session has ended just now
            add(&founds, describe_session({compat::procno_of(proc), lock.pid}, search));
    }
    return founds;
}

} // namespace

Reader current_reader() {
    return {GetUserId(), GetOuterUserId()};
}

std::span<const core::Culprit> find_lock_culprits(const AwaitedLock& wait, const Reader& reader,
                                                  NameLookup lookup) {
    Assert(IsTransactionState() && wait.lock_known);
    const Search search = {wait, reader, lookup};
    Founds founds = find_transactions(search);
    if (founds.empty())
        founds = find_sessions(search);
    std::sort(founds.begin(), founds.end(), comes_before);

    auto* culprits = new_array<core::Culprit>(founds.size());
    for (std::size_t i = 0; i < founds.size(); i++)
        culprits[i] = founds[i].culprit;
    return {culprits, founds.size()};
}

} // namespace lockguard::pg
