#include "pg/shared_state.h"

extern "C" {
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

/// Process-local: where this process finds the shared parts. Set by the postmaster before the first
/// fork and inherited (or set again, where processes do not fork).
struct {
    TerminationNotice* notices; // notice_count of them, by procno; null where not preloaded
    int notice_count;           // never changes
} state;

shmem_startup_hook_type previous_shmem_startup_hook;

Size notices_size(int count) {
    return mul_size(sizeof(TerminationNotice), count);
}

void request() {
    RequestAddinShmemSpace(notices_size(compat::max_backends()));
}

/// Creates each part, or finds what an earlier process has created.
void start_up() {
    if (previous_shmem_startup_hook != nullptr)
        previous_shmem_startup_hook();

    // PGPROCs of auxiliary processes and prepared transactions stand behind the first MaxBackends;
    // neither can be ended.
    int count = compat::max_backends();

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
    LWLockRelease(AddinShmemInitLock);

    state.notices = notices;
    state.notice_count = count;
}

/// The slot of a PGPROC; null where there is none.
TerminationNotice* notice_of(int procno) {
    if (state.notices == nullptr || procno < 0 || procno >= state.notice_count)
        return nullptr;
    return &state.notices[procno];
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

} // namespace lockguard::pg
