#include "guard/repack_ring.h"

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

bool is_named_repack(const AwaitedHolder& holder) {
    BackendStatus status;
    return read_backend_status({holder.procno, holder.pid}, &status) &&
           strncmp(status.application_name, "pg_repack", strlen("pg_repack")) == 0;
}

} // namespace

int repack_that_waits_for_us(const NeededLock& lock, const AwaitedHolders& holders) {
    if (lock.tag.locktag_type != LOCKTAG_RELATION)
        return 0;
    const LOCKTAG working = advisory_lock_of_repack(lock.tag.locktag_field2);
    const bool is_worked_on =
        !find_lock_holders(working, ExclusiveLock, compat::procno_of(MyProc)).empty();
    for (const AwaitedHolder& holder : holders.holders) {
        // It waits for those that are older than the transaction in which it holds the table.
        if (holder.procno < 0 || holder.xact_start <= GetCurrentTransactionStartTimestamp())
            continue;
        if (is_worked_on || is_named_repack(holder))
            return holder.pid;
    }
    return 0;
}

} // namespace lockguard::pg
