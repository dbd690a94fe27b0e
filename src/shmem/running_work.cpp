#include "shmem/running_work.h"

extern "C" {
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

/// What one backend shows; written by that one alone.
struct Slot {
    slock_t lock;     // guards all below; held for a copy, nothing else
    RunningWork work; // pid is 0 where there is none
};

SlotsByProc<Slot> board;

void attach(void* memory, bool is_new) {
    board.slots = static_cast<Slot*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++) {
        SpinLockInit(&board.slots[i].lock);
        board.slots[i].work = {};
    }
}

} // namespace

constinit const SharedPart kRunningWorkPart = {"pg_lockguard running work", SlotsByProc<Slot>::size,
                                               attach};

void publish_running_work(const RunningWork& work) {
    Assert(work.pid == MyProcPid);
    Slot* slot = board.own();
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->work = work;
    SpinLockRelease(&slot->lock);
}

void withdraw_running_work() {
    Slot* slot = board.own();
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->work.pid = 0;
    SpinLockRelease(&slot->lock);
}

bool read_running_work(int procno, RunningWork* work) {
    Slot* slot = board.of(procno);
    // Most have none, and whoever has missed one that begins just now is only a moment early.
    if (slot == nullptr || *const_cast<volatile int*>(&slot->work.pid) == 0)
        return false;
    SpinLockAcquire(&slot->lock);
    *work = slot->work;
    SpinLockRelease(&slot->lock);
    const PGPROC* proc = GetPGProcByNumber(procno);
    return work->pid != 0 && work->pid == proc->pid && work->lxid == compat::lxid_of(proc);
}

} // namespace lockguard::pg
