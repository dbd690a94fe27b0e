#include "sessions/guard_orders.h"

#include <csignal>

#include "sessions/interrupt_watch.h"

extern "C" {
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

/// The statement that obeys; 0 for none. Changed by this process alone, outside of the handler.
volatile uint32 obeying;
EndWait end_wait;

/// Written by the handler alone, or while nobody obeys.
volatile sig_atomic_t struck;
volatile sig_atomic_t served;   // one that has struck: its error is on the way, or was caught
volatile uint32 cancels_before; // SIGINTs that had come when it struck

/// Whoever had the signal before ours, which calls him.
struct sigaction earlier_handler;

void serve_order() {
    if (proc_exit_inprogress || MyProc == nullptr || obeying == 0)
        return;
    TimestampTz wait_start = 0;
    switch (order_for(obeying, &wait_start)) {
    case GuardOrder::none:
        break;
    case GuardOrder::end_wait:
        end_wait.own(wait_start);
        break;
    case GuardOrder::end_worker_wait:
        end_wait.of_worker();
        break;
    case GuardOrder::cancel:
        strike_statement();
        break;
    }
}

/// Is it for whoever had the signal before? A walsender takes it for the postmaster's word that the
/// server shuts down, and ends its connection at the next error: what the watcher sends is not
/// that.
bool is_for_earlier_handler(const siginfo_t& info) {
    return MyBackendType != B_WAL_SENDER || info.si_pid == PostmasterPid;
}

void obey(int number, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    serve_order();
    if (is_for_earlier_handler(*info)) {
        if ((earlier_handler.sa_flags & SA_SIGINFO) != 0)
            earlier_handler.sa_sigaction(number, info, context);
        else if (earlier_handler.sa_handler != SIG_IGN && earlier_handler.sa_handler != SIG_DFL)
            earlier_handler.sa_handler(number);
    }
    errno = saved_errno;
}

/// Stays in place for the rest of the process, unless somebody puts another one there: then that
/// one is called as well from the next statement on.
void install_handler() {
    struct sigaction present;
    if (sigaction(SIGUSR2, nullptr, &present) != 0 ||
        ((present.sa_flags & SA_SIGINFO) != 0 && present.sa_sigaction == obey))
        return;
    earlier_handler = present;
    struct sigaction ours = {};
    ours.sa_sigaction = obey;
    ours.sa_flags = SA_SIGINFO | SA_RESTART;
    // What it does must not be interrupted by the timers of this process, which do the same things.
    sigemptyset(&ours.sa_mask);
    sigaddset(&ours.sa_mask, SIGALRM);
    sigaddset(&ours.sa_mask, SIGINT);
    sigaction(SIGUSR2, &ours, nullptr);
}

} // namespace

void begin_to_obey(uint32 statement, const EndWait& how_to_end_wait) {
    Assert(obeying == 0 && statement != 0);
    mark_interrupts(); // from now on SIGINT is counted
    install_handler();
    end_wait = how_to_end_wait;
    struck = 0;
    served = 0;
    obeying = statement;
}

void cease_to_obey() {
    obeying = 0;
    if (struck == 0 || !QueryCancelPending)
        return; // not struck, or its error is on the way
    // What others have asked for notes itself elsewhere before it asks for the cancellation.
    struck = served;
    forget_own_cancel();
    if (cancels_before == cancels_from_others() &&
        !get_timeout_indicator(STATEMENT_TIMEOUT, false) &&
        !get_timeout_indicator(LOCK_TIMEOUT, false))
        QueryCancelPending = false;
}

void strike_statement() {
    // Whoever has asked for it already is to be told so.
    if (obeying == 0 || QueryCancelPending)
        return;
    if (struck != 0)
        served = 1;
    cancels_before = cancels_from_others();
    struck = 1;
    note_own_cancel();
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
}

bool was_struck() {
    return struck != 0 && cancels_before == cancels_from_others();
}

OrderResult send_guard_order(int procno, const GuardedSession& session, GuardOrder order,
                             const StallReport& report) {
    PGPROC* proc = GetPGProcByNumber(procno);
    OrderResult result = OrderResult::other_statement;
    LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
    GuardedSession now;
    // kill(0) would reach the whole server.
    if (session.pid > 0 && session.statement != 0 && proc->pid == session.pid &&
        proc->fpLocalTransactionId == session.lxid && read_guarded_session(procno, &now) &&
        now.pid == session.pid && now.lxid == session.lxid && now.statement == session.statement) {
        post_guard_order(procno, session.statement, order, report);
        result = kill(session.pid, SIGUSR2) == 0 ? OrderResult::sent : OrderResult::signal_failed;
    }
    LWLockRelease(&proc->fpInfoLock);
    return result;
}

} // namespace lockguard::pg
