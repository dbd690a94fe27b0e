#include "shmem/wait_board.h"

extern "C" {
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

/// What one backend shows; written by that one alone.
struct Slot {
    slock_t lock;         // guards all below; held for a copy, nothing else
    LowPriorityWait wait; // pid is 0 where there is none
};

SlotsByProc<Slot> board;

void attach(void* memory, bool is_new) {
    board.slots = static_cast<Slot*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++) {
        SpinLockInit(&board.slots[i].lock);
        board.slots[i].wait = {};
    }
}

/// Could the lock manager be asked for it?
bool is_valid_lock(const LOCKTAG& tag, LOCKMODE mode) {
    return (tag.locktag_lockmethodid == DEFAULT_LOCKMETHOD ||
            tag.locktag_lockmethodid == USER_LOCKMETHOD) &&
           tag.locktag_type <= LOCKTAG_LAST_TYPE && mode > NoLock && mode <= MaxLockMode;
}

} // namespace

constinit const SharedPart kWaitBoardPart = {"pg_lockguard low-priority waits",
                                             SlotsByProc<Slot>::size, attach};

void publish_low_priority_wait(const LowPriorityWait& wait) {
    Assert(wait.pid == MyProcPid);
    Assert(!wait.lock_known || is_valid_lock(wait.tag, wait.mode));
    Slot* slot = board.own();
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->wait = wait;
    SpinLockRelease(&slot->lock);
}

void withdraw_low_priority_wait() {
    Slot* slot = board.own();
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->wait.pid = 0;
    SpinLockRelease(&slot->lock);
}

bool read_low_priority_wait(int procno, LowPriorityWait* wait) {
    Slot* slot = board.of(procno);
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

bool shows_low_priority_wait() {
    LowPriorityWait own;
    return read_low_priority_wait(compat::procno_of(MyProc), &own);
}

} // namespace lockguard::pg
