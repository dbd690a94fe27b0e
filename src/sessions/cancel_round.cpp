#include "sessions/cancel_round.h"

extern "C" {
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

/// The latest one, which is pending or over.
struct {
    uint32 number;
    uint32 own; // this process has asked for that many times
    bool others;
} latest;

void begin_unless_pending() {
    if (!QueryCancelPending)
        latest = {latest.number + 1, 0, false};
}

void drop_unless_wanted() {
    if (QueryCancelPending && latest.own == 0 && !latest.others &&
        !get_timeout_indicator(STATEMENT_TIMEOUT, false) &&
        !get_timeout_indicator(LOCK_TIMEOUT, false))
        QueryCancelPending = false;
}

} // namespace

sigset_t cancelling_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGALRM);
    sigaddset(&signals, SIGUSR2);
    return signals;
}

void note_sent_request(bool by_timeout) {
    begin_unless_pending();
    if (!by_timeout)
        latest.others = true;
}

uint32 join_cancel_round() {
    begin_unless_pending();
    latest.own++;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
    return latest.number;
}

bool is_pending_round(uint32 round) {
    return QueryCancelPending && latest.number == round;
}

void leave_cancel_round() {
    Assert(QueryCancelPending && latest.own > 0);
    latest.own--;
    drop_unless_wanted();
}

void drop_late_lock_timeout() {
    if (get_timeout_indicator(LOCK_TIMEOUT, true))
        drop_unless_wanted();
}

} // namespace lockguard::pg
