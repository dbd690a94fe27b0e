#include "shmem/shared_state.h"

#include "boundary/settings.h"
#include "shmem/cancel_notice.h"
#include "shmem/counters.h"
#include "shmem/event_ring.h"

extern "C" {
#include "storage/latch.h"
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

/// Why a session is ended: from the process that ends it to the one that is ended. One for each
/// PGPROC that can belong to a client backend.
struct TerminationNotice {
    slock_t lock;            // guards all below; held for a copy, nothing else
    int pid;                 // of the victim; 0 where the slot is empty
    LocalTransactionId lxid; // of its transaction
    char detail[kNoticeDetailBytes];
};

/// What a backend shows of its wait at low priority. One for each PGPROC that can belong to a
/// client backend; written by that one alone.
struct LowPrioritySlot {
    slock_t lock;         // guards all below; held for a copy, nothing else
    LowPriorityWait wait; // pid is 0 where there is none
};

/// What a session says of itself: its start time, doubled, plus 1 where it is protected; 0 where it
/// says nothing. In one word, so that it is read whole. Written by the session alone. One for each
/// PGPROC that can belong to a client backend.
using PublishedProtection = pg_atomic_uint64;

/// The latest transaction of a backend that has imported a snapshot: its pid and, in the lower
/// half, the transaction's lxid; 0 where there was none. In one word, so that it is read whole.
/// Written by the backend alone, and not cleared: another transaction has another lxid. One for
/// each PGPROC that can belong to a client backend.
using PublishedImport = pg_atomic_uint64;

/// Small things. No lock: each is one word.
struct Words {
    pg_atomic_uint32 worker;            // procno of the worker, plus 1; 0 while there is none
    pg_atomic_uint32 server_protection; // a Protection: what the configuration files say
};

/// Process-local: where this process finds the shared parts. Set by the postmaster before the first
/// fork and inherited (or set again, where processes do not fork).
struct {
    TerminationNotice* notices;       // slot_count of them, by procno; null where not preloaded
    LowPrioritySlot* waits;           // likewise
    PublishedProtection* protections; // likewise
    PublishedImport* imports;         // likewise
    int slot_count;                   // never changes
    Words* words;
    WorkerFuses* fuses[2]; // real, rehearsed; with slot_count requests each
} state;

shmem_startup_hook_type previous_shmem_startup_hook;

Size notices_size(int count) {
    return mul_size(sizeof(TerminationNotice), count);
}

Size waits_size(int count) {
    return mul_size(sizeof(LowPrioritySlot), count);
}

Size protections_size(int count) {
    return mul_size(sizeof(PublishedProtection), count);
}

Size imports_size(int count) {
    return mul_size(sizeof(PublishedImport), count);
}

Size fuses_size(int count) {
    return add_size(offsetof(WorkerFuses, requests), mul_size(sizeof(core::RequestFuse), count));
}

void request() {
    int count = MaxBackends;
    RequestAddinShmemSpace(notices_size(count));
    RequestAddinShmemSpace(waits_size(count));
    RequestAddinShmemSpace(protections_size(count));
    RequestAddinShmemSpace(imports_size(count));
    RequestAddinShmemSpace(sizeof(Words));
    RequestAddinShmemSpace(2 * MAXALIGN(fuses_size(count)));
    request_cancel_notices(count);
    request_event_ring();
    request_statistics(count);
}

/// Creates what tells of sessions and of the worker. The caller holds AddinShmemInitLock.
void start_up_words(int count) {
    bool found;
    auto* protections = static_cast<PublishedProtection*>(
        ShmemInitStruct("pg_lockguard protected sessions", protections_size(count), &found));
    for (int i = 0; i < count && !found; i++)
        pg_atomic_init_u64(&protections[i], 0);
    state.protections = protections;

    auto* imports = static_cast<PublishedImport*>(
        ShmemInitStruct("pg_lockguard imported snapshots", imports_size(count), &found));
    for (int i = 0; i < count && !found; i++)
        pg_atomic_init_u64(&imports[i], 0);
    state.imports = imports;

    auto* words = static_cast<Words*>(ShmemInitStruct("pg_lockguard words", sizeof(Words), &found));
    if (!found) {
        pg_atomic_init_u32(&words->worker, 0);
        pg_atomic_init_u32(&words->server_protection, static_cast<uint32>(Protection::as_server));
    }
    state.words = words;

    const char* const names[] = {"pg_lockguard fuses", "pg_lockguard rehearsed fuses"};
    for (int i = 0; i < 2; i++) {
        state.fuses[i] =
            static_cast<WorkerFuses*>(ShmemInitStruct(names[i], fuses_size(count), &found));
        if (!found)
            memset(static_cast<void*>(state.fuses[i]), 0, fuses_size(count));
    }
}

/// Creates each part, or finds what an earlier process has created.
void start_up() {
    if (previous_shmem_startup_hook != nullptr)
        previous_shmem_startup_hook();

    // PGPROCs of auxiliary processes and prepared transactions stand behind the first MaxBackends;
    // neither can be ended, and neither runs DDL.
    int count = MaxBackends;

    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    bool found;
    auto* notices = static_cast<TerminationNotice*>(
        ShmemInitStruct("pg_lockguard termination notices", notices_size(count), &found));
    if (!found) {
        for (int i = 0; i < count; i++) {
            SpinLockInit(&notices[i].lock);
            notices[i].pid = 0;
            notices[i].lxid = InvalidLocalTransactionId;
            notices[i].detail[0] = '\0';
        }
    }
    auto* waits = static_cast<LowPrioritySlot*>(
        ShmemInitStruct("pg_lockguard low-priority waits", waits_size(count), &found));
    if (!found) {
        for (int i = 0; i < count; i++) {
            SpinLockInit(&waits[i].lock);
            waits[i].wait = {};
        }
    }
    start_up_words(count);
    start_up_cancel_notices(count);
    start_up_event_ring();
    start_up_statistics(count);
    LWLockRelease(AddinShmemInitLock);

    state.notices = notices;
    state.waits = waits;
    state.slot_count = count;
}

/// The slot of a PGPROC; null where there is none.
TerminationNotice* notice_of(int procno) {
    if (state.notices == nullptr || procno < 0 || procno >= state.slot_count)
        return nullptr;
    return &state.notices[procno];
}

LowPrioritySlot* wait_of(int procno) {
    if (state.waits == nullptr || procno < 0 || procno >= state.slot_count)
        return nullptr;
    return &state.waits[procno];
}

/// Could the lock manager be asked for it?
bool is_valid_lock(const LOCKTAG& tag, LOCKMODE mode) {
    return (tag.locktag_lockmethodid == DEFAULT_LOCKMETHOD ||
            tag.locktag_lockmethodid == USER_LOCKMETHOD) &&
           tag.locktag_type <= LOCKTAG_LAST_TYPE && mode > NoLock && mode <= MaxLockMode;
}

bool is_for(const TerminationNotice& notice, int pid, LocalTransactionId lxid) {
    return notice.pid == pid && notice.lxid == lxid;
}

} // namespace

void set_up_shared_state() {
    compat::on_shmem_request(request);
    previous_shmem_startup_hook = shmem_startup_hook;
    shmem_startup_hook = start_up;
}

bool shared_state_available() {
    return state.notices != nullptr;
}

void require_shared_state() {
    if (likely(shared_state_available()))
        return;
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("pg_lockguard has no shared memory"),
             errdetail("The library was not loaded at server start."),
             errhint("Add pg_lockguard to shared_preload_libraries and restart the server.")));
}

void publish_protection(Protection protection) {
    if (state.protections == nullptr || MyProc == nullptr)
        return;
    int procno = compat::procno_of(MyProc);
    if (procno >= state.slot_count)
        return;
    uint64 word = 0;
    if (protection != Protection::as_server)
        word = (static_cast<uint64>(MyStartTimestamp) << 1) | (protection == Protection::on);
    pg_atomic_write_u64(&state.protections[procno], word);
}

void protection_changed(bool whole_server, bool value) {
    if (whole_server)
        publish_protection(Protection::as_server);
    else
        publish_protection(value ? Protection::on : Protection::off);
}

Protection protection_of(int procno, TimestampTz session_start) {
    if (state.protections == nullptr || procno < 0 || procno >= state.slot_count)
        return Protection::as_server;
    uint64 word = pg_atomic_read_u64(&state.protections[procno]);
    if (word == 0 || (word | 1) != ((static_cast<uint64>(session_start) << 1) | 1))
        return Protection::as_server;
    return (word & 1) != 0 ? Protection::on : Protection::off;
}

void publish_server_protection() {
    if (state.words == nullptr)
        return;
    Protection protection = settings.protected_session ? Protection::on : Protection::off;
    pg_atomic_write_u32(&state.words->server_protection, static_cast<uint32>(protection));
}

bool protected_by_server() {
    if (state.words != nullptr) {
        uint32 word = pg_atomic_read_u32(&state.words->server_protection);
        if (word != static_cast<uint32>(Protection::as_server))
            return word == static_cast<uint32>(Protection::on);
    }
    return settings.protected_session;
}

namespace {
uint64 import_word(int pid, LocalTransactionId lxid) {
    return (static_cast<uint64>(static_cast<uint32>(pid)) << 32) | lxid;
}
} // namespace

void publish_imported_snapshot() {
    int procno = compat::procno_of(MyProc);
    if (state.imports == nullptr || procno >= state.slot_count)
        return;
    pg_atomic_write_u64(&state.imports[procno], import_word(MyProcPid, compat::lxid_of(MyProc)));
}

bool has_imported_snapshot(int procno, int pid, LocalTransactionId lxid) {
    if (state.imports == nullptr || procno < 0 || procno >= state.slot_count ||
        lxid == InvalidLocalTransactionId)
        return false;
    return pg_atomic_read_u64(&state.imports[procno]) == import_word(pid, lxid);
}

namespace {
void withdraw_worker(int /*code*/, Datum /*argument*/) {
    pg_atomic_write_u32(&state.words->worker, 0);
}
} // namespace

void announce_worker() {
    on_shmem_exit(withdraw_worker, Datum{0});
    pg_atomic_write_u32(&state.words->worker, compat::procno_of(MyProc) + 1);
}

void wake_worker() {
    if (state.words == nullptr || !settings.looks_for_blockers())
        return;
    uint32 worker = pg_atomic_read_u32(&state.words->worker);
    // Where it has just exited, somebody else's latch is set for nothing, which does no harm.
    if (worker != 0)
        SetLatch(&GetPGProcByNumber(worker - 1)->procLatch);
}

WorkerFuses* worker_fuses(bool rehearsal) {
    return state.fuses[rehearsal ? 1 : 0];
}

void post_termination_notice(int procno, int pid, LocalTransactionId lxid, const char* detail) {
    TerminationNotice* notice = notice_of(procno);
    if (notice == nullptr)
        return;
    SpinLockAcquire(&notice->lock);
    notice->pid = pid;
    notice->lxid = lxid;
    strlcpy(notice->detail, detail, sizeof(notice->detail));
    SpinLockRelease(&notice->lock);
}

void withdraw_termination_notice(int procno, int pid, LocalTransactionId lxid) {
    TerminationNotice* notice = notice_of(procno);
    if (notice == nullptr)
        return;
    SpinLockAcquire(&notice->lock);
    if (is_for(*notice, pid, lxid))
        notice->pid = 0;
    SpinLockRelease(&notice->lock);
}

bool take_termination_notice(int procno, int pid, LocalTransactionId lxid,
                             char (*detail)[kNoticeDetailBytes]) {
    TerminationNotice* notice = notice_of(procno);
    if (notice == nullptr)
        return false;
    SpinLockAcquire(&notice->lock);
    bool found = is_for(*notice, pid, lxid);
    if (found) {
        memcpy(*detail, notice->detail, sizeof(*detail));
        notice->pid = 0;
    }
    SpinLockRelease(&notice->lock);
    return found;
}

void publish_low_priority_wait(const LowPriorityWait& wait) {
    LowPrioritySlot* slot = wait_of(compat::procno_of(MyProc));
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->wait = wait;
    SpinLockRelease(&slot->lock);
}

void withdraw_low_priority_wait() {
    LowPrioritySlot* slot = wait_of(compat::procno_of(MyProc));
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->wait.pid = 0;
    SpinLockRelease(&slot->lock);
}

bool read_low_priority_wait(int procno, LowPriorityWait* wait) {
    LowPrioritySlot* slot = wait_of(procno);
    // Most have none, and whoever has missed one that begins just now is only a moment early.
    if (slot == nullptr || *const_cast<volatile int*>(&slot->wait.pid) == 0)
        return false;
    SpinLockAcquire(&slot->lock);
    *wait = slot->wait;
    SpinLockRelease(&slot->lock);
    wait->lock_known = wait->lock_known && is_valid_lock(wait->tag, wait->mode);
    const PGPROC* proc = GetPGProcByNumber(procno);
    return wait->pid != 0 && wait->pid == proc->pid &&
           (wait->lxid == InvalidLocalTransactionId || wait->lxid == compat::lxid_of(proc));
}

} // namespace lockguard::pg
