#include "shmem/wait_decisions.h"

#include "boundary/clock.h"

extern "C" {
#include "storage/latch.h"
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

enum class State : uint8 { empty, posted, taken, answered };

struct DecisionSlot {
    // 1 while a decision is posted: written with the lock held, read also without it.
    pg_atomic_uint32 is_posted;
    slock_t lock;  // guards all below; held for a copy, nothing else
    int pid;       // of the process whose statement listens; 0 for none
    uint64 number; // of its wait; goes on with each, over the processes that have the slot
    State state;
    uint64 posting; // that the state is about; goes on with each
    int64 until;    // it lapses, or its answer does
    DecisionRequest request;
    DecisionAnswer answer;
    char reason[kDecisionAnswerBytes];
};

SlotsByProc<DecisionSlot> slots;

void wake(int procno) {
    // Where it has just exited, somebody else's latch is set for nothing, which does no harm.
    if (procno >= 0 && procno < MaxBackends)
        SetLatch(&GetPGProcByNumber(procno)->procLatch);
}

/// The caller holds the slot's lock.
bool is_wait(const DecisionSlot& slot, const DecidableWait& wait) {
    return slot.pid == wait.pid && slot.number == wait.number;
}

/// One at a time: until the decision before it is answered, and the answer read, or until then.
/// The caller holds the slot's lock.
bool is_busy(const DecisionSlot& slot, int64 now) {
    return slot.state == State::taken || (slot.state != State::empty && now < slot.until);
}

/// The caller holds the slot's lock.
void clear(DecisionSlot* slot) {
    slot->state = State::empty;
    pg_atomic_write_u32(&slot->is_posted, 0);
}

} // namespace

const char* decision_name(Decision decision) {
    switch (decision) {
    case Decision::none:
        break;
    case Decision::give_up:
        return "give up";
    case Decision::queue:
        return "queue";
    case Decision::terminate:
        return "terminate";
    }
    return "";
}

void listen_for_decisions() {
    DecisionSlot* slot = slots.own();
    if (slot == nullptr)
        return;
    SpinLockAcquire(&slot->lock);
    slot->pid = MyProcPid;
    slot->number++;
    if (slot->state == State::posted)
        clear(slot);
    else if (slot->state == State::taken) // an error came before the answer
        slot->state = State::answered;
    SpinLockRelease(&slot->lock);
}

void stop_listening() {
    DecisionSlot* slot = slots.own();
    if (slot == nullptr || slot->pid != MyProcPid) // which this process alone writes
        return;
    SpinLockAcquire(&slot->lock);
    slot->pid = 0;
    // Whoever has posted it sees that it is gone; an answer stays for him until the next wait.
    if (slot->state == State::posted)
        clear(slot);
    SpinLockRelease(&slot->lock);
}

bool is_decision_posted() {
    DecisionSlot* slot = slots.own();
    return slot != nullptr && pg_atomic_read_u32(&slot->is_posted) != 0;
}

bool take_decision(DecisionRequest* request) {
    if (!is_decision_posted())
        return false;
    DecisionSlot* slot = slots.own();
    int64 now = steady_now();
    SpinLockAcquire(&slot->lock);
    bool taken = slot->pid == MyProcPid && slot->state == State::posted && now < slot->until;
    if (taken) {
        *request = slot->request;
        slot->state = State::taken;
        pg_atomic_write_u32(&slot->is_posted, 0);
    } else if (slot->state == State::posted) {
        clear(slot); // lapsed
    }
    SpinLockRelease(&slot->lock);
    return taken;
}

void answer_decision(DecisionAnswer answer, const char* reason) {
    DecisionSlot* slot = slots.own();
    if (slot == nullptr)
        return;
    int decider = -1;
    SpinLockAcquire(&slot->lock);
    if (slot->state == State::taken) {
        slot->state = State::answered;
        slot->answer = answer;
        strlcpy(slot->reason, reason == nullptr ? "" : reason, sizeof(slot->reason));
        decider = slot->request.procno;
    }
    SpinLockRelease(&slot->lock);
    wake(decider);
}

bool find_decidable_wait(int procno, int pid, DecidableWait* wait) {
    DecisionSlot* slot = slots.of(procno);
    if (slot == nullptr || pid <= 0)
        return false;
    SpinLockAcquire(&slot->lock);
    bool found = slot->pid == pid;
    *wait = {procno, pid, slot->number};
    SpinLockRelease(&slot->lock);
    // A process that was killed has left its slot as it was.
    return found && GetPGProcByNumber(procno)->pid == pid;
}

Posting post_decision(const DecidableWait& wait, const DecisionRequest& request, int64 until,
                      uint64* posting) {
    DecisionSlot* slot = slots.of(wait.procno);
    Assert(slot != nullptr && request.decision != Decision::none);
    int64 now = steady_now();
    Posting result = Posting::nobody;
    SpinLockAcquire(&slot->lock);
    if (is_wait(*slot, wait))
        result = is_busy(*slot, now) ? Posting::busy : Posting::posted;
    if (result == Posting::posted) {
        slot->state = State::posted;
        *posting = ++slot->posting;
        slot->until = until;
        slot->request = request;
        slot->answer = DecisionAnswer::done;
        slot->reason[0] = '\0';
        pg_atomic_write_u32(&slot->is_posted, 1);
    }
    SpinLockRelease(&slot->lock);
    if (result == Posting::posted)
        wake(wait.procno);
    return result;
}

Hearing look_for_answer(int procno, uint64 posting, DecisionAnswer* answer,
                        char (*reason)[kDecisionAnswerBytes]) {
    DecisionSlot* slot = slots.of(procno);
    Assert(slot != nullptr);
    Hearing hearing = Hearing::never;
    SpinLockAcquire(&slot->lock);
    if (slot->posting == posting) {
        switch (slot->state) {
        case State::empty:
            break;
        case State::posted:
            hearing = Hearing::not_yet;
            break;
        case State::taken:
            hearing = Hearing::taken;
            break;
        case State::answered:
            hearing = Hearing::answered;
            *answer = slot->answer;
            memcpy(*reason, slot->reason, sizeof(*reason));
            slot->state = State::empty;
            break;
        }
    }
    SpinLockRelease(&slot->lock);
    return hearing;
}

bool withdraw_decision(int procno, uint64 posting) {
    DecisionSlot* slot = slots.of(procno);
    Assert(slot != nullptr);
    bool too_late = false;
    SpinLockAcquire(&slot->lock);
    if (slot->posting == posting && slot->state == State::posted)
        clear(slot);
    else
        too_late = slot->posting == posting && slot->state != State::empty;
    SpinLockRelease(&slot->lock);
    return !too_late;
}

namespace {

void attach(void* memory, bool is_new) {
    slots.slots = static_cast<DecisionSlot*>(memory);
    for (int i = 0; is_new && i < MaxBackends; i++) {
        DecisionSlot* slot = &slots.slots[i];
        memset(static_cast<void*>(slot), 0, sizeof(DecisionSlot));
        pg_atomic_init_u32(&slot->is_posted, 0);
        SpinLockInit(&slot->lock);
    }
}

} // namespace

constinit const SharedPart kWaitDecisionsPart = {"pg_lockguard decisions",
                                                 SlotsByProc<DecisionSlot>::size, attach};

} // namespace lockguard::pg
