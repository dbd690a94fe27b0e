#include "sessions/cancel_round.h"

extern "C" {
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

constexpr int kReasons = static_cast<int>(CancelReason::sent) + 1;

struct Round {
    uint32 number;
    uint16 askers[kReasons];
    bool timeouts; // of the server's
    bool dropped;  // nobody was left in it
    bool is_over;  // as has been seen
};

/// Pending, or over.
Round latest;

/// The latest that is over, and was not dropped, before that one.
Round answered;

/// What is pending after the latest was over is a request that has not been noted: of code that
/// sets the flag without a signal, or handles the signal alone.
void notice_end() {
    const bool unnoted = latest.is_over && QueryCancelPending;
    if (!QueryCancelPending)
        latest.is_over = true;
    if (!unnoted)
        return;
    if (!latest.dropped)
        answered = latest;
    latest = {latest.number + 1, {}, false, false, false};
    latest.askers[static_cast<int>(CancelReason::sent)] = 1;
}

void begin_unless_pending() {
    notice_end();
    if (QueryCancelPending)
        return;
    if (!latest.dropped)
        answered = latest;
    latest = {latest.number + 1, {}, false, false, false};
}

/// Below 0 for a timeout's alone.
int strongest_reason(const Round& round) {
    int reason = kReasons - 1;
    while (reason >= 0 && round.askers[reason] == 0)
        reason--;
    return reason;
}

void drop_unless_wanted() {
    if (!QueryCancelPending || strongest_reason(latest) >= 0 ||
        get_timeout_indicator(STATEMENT_TIMEOUT, false) ||
        get_timeout_indicator(LOCK_TIMEOUT, false))
        return;
    QueryCancelPending = false;
    latest.dropped = true;
    latest.is_over = true;
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
    if (by_timeout)
        latest.timeouts = true;
    else
        latest.askers[static_cast<int>(CancelReason::sent)] = 1;
}

uint32 join_cancel_round(CancelReason reason) {
    Assert(reason != CancelReason::sent);
    begin_unless_pending();
    latest.askers[static_cast<int>(reason)]++;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
    return latest.number;
}

bool is_pending_round(uint32 round) {
    notice_end();
    return QueryCancelPending && latest.number == round;
}

void leave_cancel_round(CancelReason reason) {
    Assert(QueryCancelPending && latest.askers[static_cast<int>(reason)] > 0);
    latest.askers[static_cast<int>(reason)]--;
    drop_unless_wanted();
}

bool is_latest_answer(uint32 round, CancelReason reason) {
    notice_end();
    const Round& answer = QueryCancelPending || latest.dropped ? answered : latest;
    return answer.number == round && strongest_reason(answer) == static_cast<int>(reason);
}

void drop_late_timeouts() {
    notice_end();
    get_timeout_indicator(LOCK_TIMEOUT, true);
    if (latest.timeouts)
        drop_unless_wanted();
}

} // namespace lockguard::pg
