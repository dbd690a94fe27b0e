#include "locks/lock_holders.h"

#include <algorithm>
#include <bit>

#include "boundary/memory.h"

extern "C" {
#include "catalog/pg_type.h"
#include "utils/array.h"
}

namespace lockguard::pg {

namespace {

/// With room for every process and prepared transaction.
struct FoundHolders {
    LockHolder* found;
    std::size_t count;
    const PGPROC* waiter; // its lock group's leader, or null
};

const PGPROC* leader_of(const PGPROC* proc) {
    return proc->lockGroupLeader == nullptr ? proc : proc->lockGroupLeader;
}

void add(FoundHolders* holders, const PGPROC* proc, LOCKMASK modes) {
    const PGPROC* leader = leader_of(proc);
    if (leader == holders->waiter)
        return;
    auto mode = static_cast<core::LockMode>(std::bit_width(static_cast<uint32>(modes)) - 1);
    int procno = compat::procno_of(leader);
    for (std::size_t i = 0; i < holders->count; i++) {
        if (holders->found[i].session.procno == procno) {
            holders->found[i].mode = std::max(holders->found[i].mode, mode);
            return;
        }
    }
    // A leader that has ended before its workers has no pid any more.
    const PGPROC* session = leader->pid == 0 ? proc : leader;
    const TransactionId prepared_xid = session->pid == 0 ? session->xid : InvalidTransactionId;
    holders->found[holders->count++] = {
        {procno, session->pid, compat::lxid_of(session)}, prepared_xid, mode};
}

/// Can a lock that conflicts stand in its holder's own slots? Weak locks on relations can.
bool can_be_in_slots(const LOCKTAG& tag, LOCKMASK conflicts) {
    constexpr LOCKMASK kWeak =
        LOCKBIT_ON(AccessShareLock) | LOCKBIT_ON(RowShareLock) | LOCKBIT_ON(RowExclusiveLock);
    return tag.locktag_type == LOCKTAG_RELATION && tag.locktag_lockmethodid == DEFAULT_LOCKMETHOD &&
           tag.locktag_field1 != InvalidOid && (conflicts & kWeak) != 0;
}

/// Those that a process has in its slots. Certain only while the caller holds proc->fpInfoLock.
LOCKMASK modes_in_slots(const PGPROC* proc, const LOCKTAG& tag) {
    // In this order: most processes have nothing in their slots, and need not be asked for more.
    LOCKMASK modes = compat::fast_path_modes(proc, tag.locktag_field2);
    return modes != 0 && proc->databaseId == tag.locktag_field1 ? modes : 0;
}

/// Weak locks in the slots of their holders.
void add_from_slots(FoundHolders* holders, const LOCKTAG& tag, LOCKMASK conflicts) {
    if (!can_be_in_slots(tag, conflicts))
        return;
    for (uint32 i = 0; i < ProcGlobal->allProcCount; i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
        LOCKMASK modes = modes_in_slots(proc, tag) & conflicts;
        LWLockRelease(&proc->fpInfoLock);
        if (modes != 0)
            add(holders, proc, modes);
    }
}

/// The LOCK with that tag. The lock table itself can't be searched from outside, but each LOCK
/// hangs in the list of whoever holds it or waits for it. The caller holds the partition's lock.
///
/// \param steps  how many entries of those lists it may look at; negative when it gave up
LOCK* find_lock(const LOCKTAG& tag, int partition, int* steps) {
    Assert(LWLockHeldByMe(LockHashPartitionLockByIndex(partition)));
    int process_count = compat::count_of_procs();
    for (int i = 0; i < process_count; i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        for (PROCLOCK* proclock = compat::newest_own_proclock(proc, partition); proclock != nullptr;
             proclock = compat::older_own_proclock(proc, partition, proclock)) {
            if (--*steps < 0)
                return nullptr;
            if (memcmp(&proclock->tag.myLock->tag, &tag, sizeof(LOCKTAG)) == 0)
                return proclock->tag.myLock;
        }
    }
    return nullptr;
}

/// Locks of the main table. add() only copies: it is fit to be called under the partition's lock.
void add_from_table(FoundHolders* holders, const LOCKTAG& tag, LOCKMASK conflicts) {
    uint32 hash = LockTagHashCode(&tag);
    LWLock* partition_lock = LockHashPartitionLock(hash);
    LWLockAcquire(partition_lock, LW_SHARED);
    int steps = INT_MAX;
    LOCK* lock = find_lock(tag, static_cast<int>(LockHashPartition(hash)), &steps);
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

/// Is no conflicting mode of the lock granted to anybody, according to the main table? False also
/// where the partition has too many locks to find that out in a moment.
bool is_free_in_table(const LOCKTAG& tag, LOCKMASK conflicts, uint32 hash) {
    constexpr int kMostSteps = 200; // a few microseconds
    int steps = kMostSteps;
    LWLock* partition_lock = LockHashPartitionLock(hash);
    LWLockAcquire(partition_lock, LW_SHARED);
    const LOCK* lock = find_lock(tag, static_cast<int>(LockHashPartition(hash)), &steps);
    bool is_free = steps >= 0 && (lock == nullptr || (lock->grantMask & conflicts) == 0);
    LWLockRelease(partition_lock);
    return is_free;
}

} // namespace

Datum pids_of(std::span<const LockHolder> holders) {
    auto* pids = new_array<Datum>(holders.size());
    for (std::size_t i = 0; i < holders.size(); i++)
        pids[i] = Int32GetDatum(holders[i].session.pid);
    std::sort(pids, pids + holders.size(),
              [](Datum left, Datum right) { return DatumGetInt32(left) < DatumGetInt32(right); });
    return PointerGetDatum(construct_array(pids, static_cast<int>(holders.size()), INT4OID,
                                           sizeof(int32), true, TYPALIGN_INT));
}

bool seems_free(const LOCKTAG& tag, LOCKMODE mode) {
    LOCKMASK conflicts = GetLockTagsMethodTable(&tag)->conflictTab[mode];
    bool in_slots = can_be_in_slots(tag, conflicts);
    uint32 hash = LockTagHashCode(&tag);
    int partition = static_cast<int>(LockHashPartition(hash));
    bool table_is_empty = true;
    // Without fpInfoLock and the partition's lock, which is what makes it cheap. Of the lists
    // nothing but whether they are empty is looked at.
    for (int i = 0; i < compat::count_of_procs(); i++) {
        PGPROC* proc = GetPGProcByNumber(i);
        // Most processes are in no transaction, and cost a look at this word alone.
        if (compat::lxid_of(proc) == InvalidLocalTransactionId || proc == MyProc)
            continue;
        if (in_slots && (modes_in_slots(proc, tag) & conflicts) != 0)
            return false;
        if (compat::newest_own_proclock(proc, partition) != nullptr)
            table_is_empty = false;
    }
    return table_is_empty || is_free_in_table(tag, conflicts, hash);
}

std::span<const LockHolder> find_lock_holders(const LOCKTAG& tag, LOCKMODE wanted, int waiter) {
    Assert(wanted > NoLock && wanted <= MaxLockMode); // and a known tag, which is asserted there:
    LOCKMASK conflicts = GetLockTagsMethodTable(&tag)->conflictTab[wanted];
    FoundHolders holders;
    holders.found = new_array<LockHolder>(static_cast<std::size_t>(compat::count_of_procs()));
    holders.count = 0;
    holders.waiter = waiter < 0 ? nullptr : leader_of(GetPGProcByNumber(waiter));
    add_from_slots(&holders, tag, conflicts);
    add_from_table(&holders, tag, conflicts);
    return {holders.found, holders.count};
}

} // namespace lockguard::pg
