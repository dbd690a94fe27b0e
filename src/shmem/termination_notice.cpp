#include "shmem/termination_notice.h"

extern "C" {
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

struct Notice {
    slock_t lock;            // guards all below; held for a copy, nothing else
    int pid;                 // of the victim; 0 where the slot is empty
    LocalTransactionId lxid; // of its transaction
    char detail[kNoticeDetailBytes];
};

SlotsByProc<Notice> notices;

void attach(void* memory, bool is_new) {
    notices.slots = static_cast<Notice*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++) {
        SpinLockInit(&notices.slots[i].lock);
        notices.slots[i].pid = 0;
        notices.slots[i].lxid = InvalidLocalTransactionId;
        notices.slots[i].detail[0] = '\0';
    }
}

bool is_for(const Notice& notice, int pid, LocalTransactionId lxid) {
    return notice.pid == pid && notice.lxid == lxid;
}

} // namespace

constinit const SharedPart kTerminationNoticesPart = {"pg_lockguard termination notices",
                                                      SlotsByProc<Notice>::size, attach};

void post_termination_notice(int procno, int pid, LocalTransactionId lxid, const char* detail) {
    Notice* notice = notices.of(procno);
    if (notice == nullptr)
        return;
    SpinLockAcquire(&notice->lock);
    notice->pid = pid;
    notice->lxid = lxid;
    strlcpy(notice->detail, detail, sizeof(notice->detail));
    SpinLockRelease(&notice->lock);
}

void withdraw_termination_notice(int procno, int pid, LocalTransactionId lxid) {
    Notice* notice = notices.of(procno);
    if (notice == nullptr)
        return;
    SpinLockAcquire(&notice->lock);
    if (is_for(*notice, pid, lxid))
        notice->pid = 0;
    SpinLockRelease(&notice->lock);
}

bool take_termination_notice(int procno, int pid, LocalTransactionId lxid,
                             char (*detail)[kNoticeDetailBytes]) {
    Notice* notice = notices.of(procno);
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
