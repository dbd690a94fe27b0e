#include "pg/lock_holders.h"

#include <algorithm>
#include <bit>

namespace lockguard::pg {

namespace {

/// Room for every process and prepared transaction.
struct Holders {
    LockHolder* found;
    std::size_t count;
    const PGPROC* waiter; // its lock group's leader
};

const PGPROC* leader_of(const PGPROC* proc) {
    return proc->lockGroupLeader == nullptr ? proc : proc->lockGroupLeader;
}

void add(Holders* holders, const PGPROC* proc, LOCKMASK modes) {
    const PGPROC* leader = leader_of(proc);
    if (leader == holders->waiter)
        return;
    auto mode = static_cast<core::LockMode>(std::bit_width(static_cast<uint32>(modes)) - 1);
    int procno = compat::procno_of(leader);
    for (std::size_t i = 0; i < holders->count; i++) {
        if (holders->found[i].procno == procno) {
            holders->found[i].mode = std::max(holders->found[i].mode, mode);
            return;
        }
    }
    // A leader that has ended before its workers has no pid any more.
    const PGPROC* session = leader->pid == 0 ? proc : leader;
    holders->found[holders->count++] = {procno, session->pid, compat::lxid_of(session),
                                        session->xid, mode};
}

/// Weak locks in the slots of their holders.
void add_from_slots(Holders* holders, const LOCKTAG& tag, LOCKMASK conflicts) {
    constexpr LOCKMASK kWeak =
        LOCKBIT_ON(AccessShareLock) | LOCKBIT_ON(RowShareLock) | LOCKBIT_ON(RowExclusiveLock);
    if (tag.locktag_type != LOCKTAG_RELATION || tag.locktag_lockmethodid != DEFAULT_LOCKMETHOD ||
        tag.locktag_field1 == InvalidOid || (conflicts & kWeak) == 0)
        return;
    for (uint32 i = 0; i < ProcGlobal->allProcCount; i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
        LOCKMASK modes = proc->databaseId == tag.locktag_field1
                             ? compat::fast_path_modes(proc, tag.locktag_field2) & conflicts
                             : 0;
        LWLockRelease(&proc->fpInfoLock);
        if (modes != 0)
            add(holders, proc, modes);
    }
}

/// The LOCK with that tag. The lock table itself can't be searched from outside, but each LOCK
/// hangs in the list of whoever holds it or waits for it. The caller holds the partition's lock.
LOCK* find_lock(const LOCKTAG& tag, int partition, int process_count) {
    for (int i = 0; i < process_count; i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        for (PROCLOCK* proclock = compat::newest_own_proclock(proc, partition); proclock != nullptr;
             proclock = compat::older_own_proclock(proc, partition, proclock)) {
            if (memcmp(&proclock->tag.myLock->tag, &tag, sizeof(LOCKTAG)) == 0)
                return proclock->tag.myLock;
        }
    }
    return nullptr;
}

/// Locks of the main table. add() only copies: it is fit to be called under the partition's lock.
void add_from_table(Holders* holders, const LOCKTAG& tag, LOCKMASK conflicts, int process_count) {
    uint32 hash = LockTagHashCode(&tag);
    LWLock* partition_lock = LockHashPartitionLock(hash);
    LWLockAcquire(partition_lock, LW_SHARED);
    LOCK* lock = find_lock(tag, static_cast<int>(LockHashPartition(hash)), process_count);
    if (lock != nullptr) {
        for (PROCLOCK* proclock = compat::first_proclock(lock); proclock != nullptr;
             proclock = compat::next_proclock(lock, proclock)) {
            LOCKMASK modes = proclock->holdMask & conflicts;
            if (modes != 0)
                add(holders, proclock->tag.myProc, modes);
        }
    }
    LWLockRelease(partition_lock);
}

} // namespace

std::span<const LockHolder> find_lock_holders(const LOCKTAG& tag, LOCKMODE wanted, int waiter) {
    int process_count = static_cast<int>(ProcGlobal->allProcCount) + max_prepared_xacts;
    LOCKMASK conflicts = GetLockTagsMethodTable(&tag)->conflictTab[wanted];
    Holders holders;
    holders.found =
        static_cast<LockHolder*>(palloc(sizeof(LockHolder) * static_cast<Size>(process_count)));
    holders.count = 0;
    holders.waiter = leader_of(GetPGProcByNumber(waiter));
    add_from_slots(&holders, tag, conflicts);
    add_from_table(&holders, tag, conflicts, process_count);
    return {holders.found, holders.count};
}

} // namespace lockguard::pg
