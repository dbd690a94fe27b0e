#include "shmem/cancel_notice.h"

extern "C" {
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

struct Place {
    slock_t lock; // guards the notice; held for a copy, nothing else
    CancelNotice notice;
};

SlotsByProc<Place> places;

void attach(void* memory, bool is_new) {
    places.slots = static_cast<Place*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++) {
        SpinLockInit(&places.slots[i].lock);
        places.slots[i].notice = {};
    }
}

bool is_for(const CancelNotice& notice, int pid, LocalTransactionId lxid, TimestampTz statement) {
    return notice.pid != 0 && notice.pid == pid && notice.lxid == lxid &&
           notice.statement == statement;
}

} // namespace

constinit const SharedPart kCancelNoticesPart = {"pg_lockguard cancel notices",
                                                 SlotsByProc<Place>::size, attach};

void post_cancel_notice(int procno, const CancelNotice& notice) {
    Place* place = places.of(procno);
    if (place == nullptr)
        return;
    SpinLockAcquire(&place->lock);
    place->notice = notice;
    SpinLockRelease(&place->lock);
}

void withdraw_cancel_notice(int procno, const CancelNotice& notice) {
    Place* place = places.of(procno);
    if (place == nullptr)
        return;
    SpinLockAcquire(&place->lock);
    if (is_for(place->notice, notice.pid, notice.lxid, notice.statement))
        place->notice.pid = 0;
    SpinLockRelease(&place->lock);
}

bool take_cancel_notice(int procno, int pid, LocalTransactionId lxid, TimestampTz statement,
                        CancelNotice* notice) {
    Place* place = places.of(procno);
    if (place == nullptr)
        return false;
    SpinLockAcquire(&place->lock);
    bool found = is_for(place->notice, pid, lxid, statement);
    if (found) {
        *notice = place->notice;
        place->notice.pid = 0;
    }
    SpinLockRelease(&place->lock);
    return found;
}

} // namespace lockguard::pg
