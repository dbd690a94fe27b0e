// The only place with PG_VERSION_NUM, but for the list of headers (boundary/server_headers). What
// differs between PostgreSQL 15 and 19, and only that, has one name here, in the newest version's
// shape where there is one; all other code is the same for every version. It is long because it is
// to be one place.
//
// Include it last, after C++ and fmt headers (postgres.h redefines printf and friends).
#pragma once

#include <cstddef>
#include <cstdlib>
#include <type_traits>

#include "boundary/server_headers.h"

/// 18 can tell a module's name and version.
#if PG_VERSION_NUM >= 180000
#define LOCKGUARD_MODULE_MAGIC(module_name, module_version)                                        \
    PG_MODULE_MAGIC_EXT(.name = module_name, .version = module_version)
#else
#define LOCKGUARD_MODULE_MAGIC(module_name, module_version) PG_MODULE_MAGIC
#endif

namespace lockguard::pg::compat {

// ---- Queues of the lock manager. SHM_QUEUE and PROC_QUEUE up to 15, dlist and dclist from 16;
// PGPROC.links is waitLink from 19. The iteration macros of ilist.h are no C++. The caller holds
// the lock's partition lock.

#if PG_VERSION_NUM >= 160000
using QueueLink = dlist_node;
#else
using QueueLink = SHM_QUEUE;
#endif

#if PG_VERSION_NUM >= 190000
inline constexpr std::size_t kWaitLinkOffset = offsetof(PGPROC, waitLink);
#else
inline constexpr std::size_t kWaitLinkOffset = offsetof(PGPROC, links);
#endif

template <class Element>
Element* element_of(QueueLink* link, std::size_t offset) {
    return reinterpret_cast<Element*>(reinterpret_cast<char*>(link) - offset);
}

template <class Element>
QueueLink* link_of(Element* element, std::size_t offset) {
    return reinterpret_cast<QueueLink*>(reinterpret_cast<char*>(element) + offset);
}

#if PG_VERSION_NUM >= 160000
inline QueueLink* proclock_head(LOCK* lock) {
    return &lock->procLocks.head;
}
inline QueueLink* waiter_head(LOCK* lock) {
    return &lock->waitProcs.dlist.head;
}
#else
inline QueueLink* proclock_head(LOCK* lock) {
    return &lock->procLocks;
}
inline QueueLink* waiter_head(LOCK* lock) {
    return &lock->waitProcs.links;
}
#endif

/// The PROCLOCKs of a lock, one after the other; null at the end.
inline PROCLOCK* first_proclock(LOCK* lock) {
    QueueLink* link = proclock_head(lock)->next;
    return link == proclock_head(lock) ? nullptr
                                       : element_of<PROCLOCK>(link, offsetof(PROCLOCK, lockLink));
}
inline PROCLOCK* next_proclock(LOCK* lock, PROCLOCK* proclock) {
    QueueLink* link = proclock->lockLink.next;
    return link == proclock_head(lock) ? nullptr
                                       : element_of<PROCLOCK>(link, offsetof(PROCLOCK, lockLink));
}

/// The processes that queue for a lock, in order; null at the end.
inline PGPROC* first_waiter(LOCK* lock) {
    QueueLink* link = waiter_head(lock)->next;
    return link == waiter_head(lock) ? nullptr : element_of<PGPROC>(link, kWaitLinkOffset);
}
inline PGPROC* next_waiter(LOCK* lock, PGPROC* proc) {
    QueueLink* link = link_of(proc, kWaitLinkOffset)->next;
    return link == waiter_head(lock) ? nullptr : element_of<PGPROC>(link, kWaitLinkOffset);
}

/// The PROCLOCKs of a process in one partition, newest first; null at the end. The caller holds the
/// partition's lock.
#if PG_VERSION_NUM >= 160000
inline QueueLink* own_proclock_head(PGPROC* proc, int partition) {
    return &proc->myProcLocks[partition].head;
}
#else
inline QueueLink* own_proclock_head(PGPROC* proc, int partition) {
    return &proc->myProcLocks[partition];
}
#endif
inline PROCLOCK* newest_own_proclock(PGPROC* proc, int partition) {
    QueueLink* head = own_proclock_head(proc, partition);
    // Read once: PREPARE TRANSACTION makes the (empty) lists of its PGPROC anew without any lock,
    // and for a moment they are null.
    QueueLink* newest = *const_cast<QueueLink* const volatile*>(&head->prev);
    return newest == head || newest == nullptr
               ? nullptr
               : element_of<PROCLOCK>(newest, offsetof(PROCLOCK, procLink));
}
inline PROCLOCK* older_own_proclock(PGPROC* proc, int partition, PROCLOCK* proclock) {
    QueueLink* link = proclock->procLink.prev;
    return link == own_proclock_head(proc, partition)
               ? nullptr
               : element_of<PROCLOCK>(link, offsetof(PROCLOCK, procLink));
}

// ---- Command tags. 17 has no name for the end of the list.

inline constexpr int kCommandTagCount = 0
#define PG_CMDTAG(...) +1
#include "tcop/cmdtaglist.h"
#undef PG_CMDTAG
    ;

// ---- Processes. 17 replaced backend IDs by numbers of PGPROCs and moved lxid.

inline int procno_of(const PGPROC* proc) {
    return static_cast<int>(proc - ProcGlobal->allProcs);
}

/// Processes, and behind them, by number, prepared transactions.
inline int count_of_procs() {
    return static_cast<int>(ProcGlobal->allProcCount) + max_prepared_xacts;
}

inline LocalTransactionId lxid_of(const PGPROC* proc) {
#if PG_VERSION_NUM >= 170000
    return proc->vxid.lxid;
#else
    return proc->lxid;
#endif
}

/// The number of a process in its virtual transaction ids, and in the names of the snapshots that
/// it exports.
inline int vxid_number_of(const PGPROC* proc) {
#if PG_VERSION_NUM >= 170000
    return proc->vxid.procNumber;
#else
    return proc->backendId;
#endif
}

/// \param number  as vxid_number_of() has it
inline VirtualTransactionId make_vxid(int number, LocalTransactionId lxid) {
    VirtualTransactionId vxid;
#if PG_VERSION_NUM >= 170000
    vxid.procNumber = number;
#else
    vxid.backendId = number;
#endif
    vxid.localTransactionId = lxid;
    return vxid;
}

/// The PGPROC of the backend that a virtual transaction id was made by; null where it has ended.
/// Whether it is still in that transaction is for the caller to check.
inline PGPROC* proc_of_vxid(VirtualTransactionId vxid) {
#if PG_VERSION_NUM >= 170000
    return ProcNumberGetProc(vxid.procNumber);
#else
    return BackendIdGetProc(vxid.backendId);
#endif
}

/// Does this transaction, or session, hold the lock in this very mode? LockHeldByMe() got a third
/// argument in the course of 17: whether stronger modes count.
template <class Function = decltype(LockHeldByMe)>
bool holds_lock(const LOCKTAG& tag, LOCKMODE mode, Function* held_by_me = LockHeldByMe) {
    if constexpr (std::is_invocable_v<Function*, const LOCKTAG*, LOCKMODE, bool>)
        return held_by_me(&tag, mode, false);
    else
        return held_by_me(&tag, mode);
}

/// Calls visit(relation, modes) for the locks on relations of its own database that a process has
/// in its fast-path slots. Certain only while the caller holds proc->fpInfoLock. 18 gave a process
/// as many groups of slots as max_locks_per_transaction needs, and a prepared transaction none.
template <class Visit>
void for_each_fast_path_lock(const PGPROC* proc, Visit visit) {
#if PG_VERSION_NUM >= 180000
    // Read once: without the lock it may be that of a transaction which is just being prepared.
    const uint64* slot_bits = *const_cast<uint64* const volatile*>(&proc->fpLockBits);
    constexpr int group_slots = FP_LOCK_SLOTS_PER_GROUP;
    const int groups = slot_bits == nullptr ? 0 : FastPathLockSlotsPerBackend() / group_slots;
    auto bits_of = [slot_bits](int group) { return slot_bits[group]; };
#else
    constexpr int group_slots = FP_LOCK_SLOTS_PER_BACKEND;
    constexpr int groups = 1;
    auto bits_of = [proc](int) { return proc->fpLockBits; };
#endif
    for (int group = 0; group < groups; group++) {
        // Three bits a slot, for AccessShareLock, RowShareLock and RowExclusiveLock.
        uint64 bits = bits_of(group);
        for (int slot = group * group_slots; bits != 0; bits >>= 3, slot++) {
            if ((bits & 7) != 0)
                visit(proc->fpRelId[slot], static_cast<LOCKMASK>((bits & 7) << AccessShareLock));
        }
    }
}

/// The modes that a process holds on a relation of its own database in its fast-path slots. Certain
/// only while the caller holds proc->fpInfoLock.
inline LOCKMASK fast_path_modes(const PGPROC* proc, Oid relation) {
    LOCKMASK found = 0;
    for_each_fast_path_lock(proc, [relation, &found](Oid locked, LOCKMASK modes) {
        if (locked == relation)
            found |= modes;
    });
    return found;
}

/// Does this process hold no relation by its own slots? Only others' requests empty them meanwhile,
/// and what they take from there is in the main table before.
inline bool has_empty_slots() {
#if PG_VERSION_NUM >= 180000
    const int groups = FastPathLockSlotsPerBackend() / FP_LOCK_SLOTS_PER_GROUP;
    for (int group = 0; group < groups; group++) {
        if (*const_cast<volatile uint64*>(&MyProc->fpLockBits[group]) != 0)
            return false;
    }
    return true;
#else
    return *const_cast<volatile uint64*>(&MyProc->fpLockBits) == 0;
#endif
}

/// Did an earlier statement run in this transaction, one that is none to SQL because the client has
/// sent no Sync yet? Early releases of 15 can't tell.
inline bool is_pipelining() {
#ifdef XACT_FLAGS_PIPELINING
    return (MyXactFlags & XACT_FLAGS_PIPELINING) != 0;
#else
    return false;
#endif
}

// ---- Privileges. 16 has one function for the owners of all kinds of objects.

inline bool owns_relation(Oid relation, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(RelationRelationId, relation, role);
#else
    return pg_class_ownercheck(relation, role);
#endif
}

inline bool may_create_in_schema(Oid schema, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(NamespaceRelationId, schema, role, ACL_CREATE) == ACLCHECK_OK;
#else
    return pg_namespace_aclcheck(schema, role, ACL_CREATE) == ACLCHECK_OK;
#endif
}

inline bool may_create_in_tablespace(Oid tablespace, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(TableSpaceRelationId, tablespace, role, ACL_CREATE) == ACLCHECK_OK;
#else
    return pg_tablespace_aclcheck(tablespace, role, ACL_CREATE) == ACLCHECK_OK;
#endif
}

inline bool owns_schema(Oid schema, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(NamespaceRelationId, schema, role);
#else
    return pg_namespace_ownercheck(schema, role);
#endif
}

inline bool owns_type(Oid type, Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(TypeRelationId, type, role);
#else
    return pg_type_ownercheck(type, role);
#endif
}

/// May the role REINDEX, CLUSTER, and REFRESH the relation? From 17 on there is a privilege for it.
bool may_maintain(Oid relation, Oid role);

/// The privileges of which one is needed for LOCK TABLE in that mode.
AclMode privileges_to_lock(LOCKMODE mode);

/// Raises 42501 where the query may not be run by the present role: the check with which the
/// executor begins.
void check_query_privileges(const PlannedStmt* query);

// ---- Constraints. 18 has those of NOT NULL in pg_constraint, and hands them down by their own
// rules.

#if PG_VERSION_NUM >= 180000
inline constexpr bool kNotNullIsConstraint = true;
#else
inline constexpr bool kNotNullIsConstraint = false;
#endif

inline constexpr char kNotNullConstraint = 'n'; // pg_constraint.contype

// ---- Transactions. 17 has a timeout that begins anew with each of them.

/// When transaction_timeout will end this transaction; 0 where it won't.
inline TimestampTz transaction_timeout_end() {
#if PG_VERSION_NUM >= 170000
    return get_timeout_active(TRANSACTION_TIMEOUT) ? get_timeout_finish_time(TRANSACTION_TIMEOUT)
                                                   : 0;
#else
    return 0;
#endif
}

/// Is that the SQLSTATE of a session that transaction_timeout has ended?
inline bool is_transaction_timeout([[maybe_unused]] int sqlstate) {
#if PG_VERSION_NUM >= 170000
    return sqlstate == ERRCODE_TRANSACTION_TIMEOUT;
#else
    return false;
#endif
}

/// Has transaction_timeout end this transaction then, where that is not 0.
inline void set_transaction_timeout_end([[maybe_unused]] TimestampTz end) {
#if PG_VERSION_NUM >= 170000
    if (end != 0)
        enable_timeout_at(TRANSACTION_TIMEOUT, end);
#endif
}

// ---- Slots of backend status.

/// The status slot of a process, or null where this process can't find it (it has none itself, or
/// that one has ended). To be read with the slot's change counter, and its pid to be verified.
inline const PgBackendStatus* status_slot(int procno, int pid) {
    if (MyBEEntry == nullptr || procno < 0 || procno >= static_cast<int>(ProcGlobal->allProcCount))
        return nullptr;
#if PG_VERSION_NUM >= 170000
    (void)pid;
    return MyBEEntry - MyProcNumber + procno;
#else
    if (MyBackendId == InvalidBackendId)
        return nullptr;
    const PgBackendStatus* slots = MyBEEntry - (MyBackendId - 1);
    if (procno < MaxBackends) {
        BackendId backend_id = GetPGProcByNumber(procno)->backendId;
        return backend_id == InvalidBackendId ? nullptr : &slots[backend_id - 1];
    }
    // An auxiliary process has a slot by its kind, behind those of the backends; also the startup
    // process of a standby, though it gets a backend ID as well.
    for (int kind = 0; kind < NUM_AUXPROCTYPES; kind++) {
        if (slots[MaxBackends + kind].st_procpid == pid)
            return &slots[MaxBackends + kind];
    }
    return nullptr;
#endif
}

/// States that not every version has: 18 inserted "starting". Null for an undefined state.
inline const char* newer_state_name(BackendState state) {
#if PG_VERSION_NUM >= 180000
    if (state == STATE_STARTING)
        return "starting";
#endif
    (void)state;
    return nullptr;
}

// ---- Statements. 19 made CLUSTER a form of REPACK.

#if PG_VERSION_NUM >= 190000
inline constexpr NodeTag kClusterStatement = T_RepackStmt;
#else
inline constexpr NodeTag kClusterStatement = T_ClusterStmt;
#endif

/// The tag of REPACK; CMDTAG_UNKNOWN where there is none.
#if PG_VERSION_NUM >= 190000
inline constexpr CommandTag kRepackCommand = CMDTAG_REPACK;
#else
inline constexpr CommandTag kRepackCommand = CMDTAG_UNKNOWN;
#endif

/// The options of a statement of that kind that it has from 19 on.
inline const List* repack_options([[maybe_unused]] const Node* statement) {
#if PG_VERSION_NUM >= 190000
    return reinterpret_cast<const RepackStmt*>(statement)->params;
#else
    return NIL;
#endif
}

/// The table that a statement of that kind names, or null where it works on all of them.
inline const RangeVar* clustered_table(const Node* statement) {
#if PG_VERSION_NUM >= 190000
    const VacuumRelation* target = reinterpret_cast<const RepackStmt*>(statement)->relation;
    return target == nullptr ? nullptr : target->relation;
#else
    return reinterpret_cast<const ClusterStmt*>(statement)->relation;
#endif
}

// ---- The server log. 19 has a level for each type of process.

/// From which level on processes of that type, by default of this one's, write messages to the
/// server log, as far as this process' own settings tell.
inline int server_log_level([[maybe_unused]] BackendType type = MyBackendType) {
#if PG_VERSION_NUM >= 190000
    return log_min_messages[type];
#else
    return log_min_messages;
#endif
}

// ---- Clocks.

inline uint64 nanoseconds(instr_time interval) {
#if PG_VERSION_NUM >= 160000
    return static_cast<uint64>(INSTR_TIME_GET_NANOSEC(interval));
#else
    return static_cast<uint64>(interval.tv_sec) * 1000000000 +
           static_cast<uint64>(interval.tv_nsec);
#endif
}

// ---- Settings. From 16 the memory of a check hook's "extra" belongs to guc.c, with an allocator
// of its own.

/// Returns null where there is no memory, without an error.
inline void* guc_extra_alloc(std::size_t size) {
#if PG_VERSION_NUM >= 160000
    return guc_malloc(LOG, size);
#else
    return std::malloc(size);
#endif
}

// ---- Shared memory and wait events.

/// Arranges for request() to run in shmem_request_hook (whose previous owner runs first). Call it
/// from _PG_init, in the postmaster, once.
void on_shmem_request(void (*request)());

/// A wait event of our own: named from 17, plain "Extension" before. Call it once in a process.
inline uint32 new_wait_event([[maybe_unused]] const char* name) {
#if PG_VERSION_NUM >= 170000
    return WaitEventExtensionNew(name);
#else
    return PG_WAIT_EXTENSION;
#endif
}

// ---- Tuple stores. Up to 17 the memory of one grows in powers of two with its rows.

#if PG_VERSION_NUM >= 180000
inline constexpr bool kTupleStoreGrowsByDoubling = false;
#else
inline constexpr bool kTupleStoreGrowsByDoubling = true;
#endif

/// Takes a lock if it is free and the lock table has room for it: else LOCKACQUIRE_NOT_AVAIL, and
/// no error, also where the table is full. From 18 on it can be logged that it was not free.
inline LockAcquireResult take_lock_if_possible(const LOCKTAG& tag, LOCKMODE mode,
                                               LOCALLOCK** local) {
#if PG_VERSION_NUM >= 180000
    return LockAcquireExtended(&tag, mode, false, true, false, local, false);
#else
    return LockAcquireExtended(&tag, mode, false, true, false, local);
#endif
}

} // namespace lockguard::pg::compat
