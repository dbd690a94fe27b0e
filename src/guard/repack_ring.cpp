#include "guard/repack_ring.h"

#include <algorithm>

#include "locks/lock_holders.h"
#include "sessions/backend_status.h"

namespace lockguard::pg {

namespace {

/// pg_advisory_lock(16185446, oid - 2^31), as pg_repack's documentation of its locks has it.
LOCKTAG advisory_lock_of_repack(Oid relation) {
    constexpr uint32 kRepack = 16185446;
    LOCKTAG tag;
    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, kRepack, relation ^ 0x80000000U, 2);
    return tag;
}

bool begins_with(const char* text, const char* beginning) {
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

bool is_of_role_of(const AwaitedHolder& holder, std::span<const LockHolder> sessions) {
    const Oid role = GetPGProcByNumber(holder.procno)->roleId;
    return std::ranges::any_of(sessions, [role](const LockHolder& session) {
        return session.session.pid != 0 &&
               GetPGProcByNumber(session.session.procno)->roleId == role;
    });
}

/// Its connection that holds the table has said LOCK TABLE, and nothing since. Others may hold it
/// meanwhile, too.
///
/// \param working  sessions that work on this table, as pg_repack does
bool is_of_repack(const AwaitedHolder& holder, std::span<const LockHolder> working) {
    BackendStatus status;
    if (!read_backend_status({holder.procno, holder.pid}, &status))
        return false;
    return begins_with(status.application_name, "pg_repack") ||
           (is_idle_in_transaction(status.state) && begins_with(status.query, "LOCK TABLE ") &&
            is_of_role_of(holder, working));
}

} // namespace

int repack_that_waits_for_us(const NeededLock& lock, const AwaitedHolders& holders) {
    if (lock.tag.locktag_type != LOCKTAG_RELATION)
        return 0;
    const std::span<const LockHolder> working = find_lock_holders(
        advisory_lock_of_repack(lock.tag.locktag_field2), ExclusiveLock, compat::procno_of(MyProc));
    for (const AwaitedHolder& holder : holders.holders) {
        // It waits for those that are older than the transaction in which it holds the table.
        if (holder.procno >= 0 && holder.xact_start > GetCurrentTransactionStartTimestamp() &&
            is_of_repack(holder, working))
            return holder.pid;
    }
    return 0;
}

} // namespace lockguard::pg
