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

/// Process-local: where this process finds the places.
struct {
    Place* places; // place_count of them, by procno; null where not preloaded
    int place_count;
} state;

Place* place_of(int procno) {
    if (state.places == nullptr || procno < 0 || procno >= state.place_count)
        return nullptr;
    return &state.places[procno];
}

bool is_for(const CancelNotice& notice, int pid, LocalTransactionId lxid, TimestampTz statement) {
    return notice.pid != 0 && notice.pid == pid && notice.lxid == lxid &&
           notice.statement == statement;
}

} // namespace

void post_cancel_notice(int procno, const CancelNotice& notice) {
    Place* place = place_of(procno);
    if (place == nullptr)
        return;
    SpinLockAcquire(&place->lock);
    place->notice = notice;
    SpinLockRelease(&place->lock);
}

void withdraw_cancel_notice(int procno, const CancelNotice& notice) {
    Place* place = place_of(procno);
    if (place == nullptr)
        return;
    SpinLockAcquire(&place->lock);
    if (is_for(place->notice, notice.pid, notice.lxid, notice.statement))
        place->notice.pid = 0;
    SpinLockRelease(&place->lock);
}

bool take_cancel_notice(int procno, int pid, LocalTransactionId lxid, TimestampTz statement,
                        CancelNotice* notice) {
    Place* place = place_of(procno);
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

void request_cancel_notices(int proc_count) {
    RequestAddinShmemSpace(mul_size(sizeof(Place), static_cast<Size>(proc_count)));
}

void start_up_cancel_notices(int proc_count) {
    bool found;
    auto* places = static_cast<Place*>(
        ShmemInitStruct("pg_lockguard cancel notices",
                        mul_size(sizeof(Place), static_cast<Size>(proc_count)), &found));
    for (int i = 0; i < proc_count && !found; i++) {
        SpinLockInit(&places[i].lock);
        places[i].notice = {};
    }
    state.places = places;
    state.place_count = proc_count;
}

} // namespace lockguard::pg
