#include "sessions/guard_orders.h"

#include <csignal>

#include "sessions/cancel_round.h"
#include "sessions/interrupt_watch.h"
#include "sessions/own_cancel.h"

namespace lockguard::pg {

namespace {

/// The statement that obeys; 0 for none. Changed by this process alone, outside of the handler.
volatile uint32 obeying;
EndWait end_wait;

/// The end of that statement. Written by signal handlers, with signals held off, or while nobody
/// obeys.
OwnCancel end_of_statement;
volatile uint32 cancels_before; // SIGINTs that had come when it was asked for

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
    allow_own_cancel(&end_of_statement);
    install_handler();
    end_wait = how_to_end_wait;
    obeying = statement;
}

void cease_to_obey() {
    obeying = 0;
    if (withdraw_own_cancel(&end_of_statement))
        forget_own_cancel();
}

void strike_statement() {
    hold_signals([] {
        // Whoever has asked for it already is to be told so.
        if (obeying == 0 || QueryCancelPending)
            return;
        if (!has_cut(end_of_statement)) // the first counts
            cancels_before = cancels_from_others();
        note_own_cancel();
        ask_own_cancel(&end_of_statement);
    });
}

bool was_struck() {
    return has_cut(end_of_statement) && cancels_before == cancels_from_others();
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
