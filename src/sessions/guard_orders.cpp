#include "sessions/guard_orders.h"

#include <csignal>

#include "sessions/cancel_round.h"
#include "sessions/own_cancel.h"
#include "sessions/signal_chain.h"

namespace lockguard::pg {

namespace {

/// The statement that obeys; 0 for none. Changed by this process alone, outside of the handler.
volatile uint32 obeying;
EndWait end_wait;

/// The end of that statement. Written by signal handlers, with signals held off, or while nobody
/// obeys.
OwnCancel end_of_statement;

/// Returns whether there was one.
bool serve_order() {
    if (proc_exit_inprogress || MyProc == nullptr || obeying == 0)
        return false;
    TimestampTz wait_start = 0;
    switch (order_for(obeying, &wait_start)) {
    case GuardOrder::none:
        return false;
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
    return true;
}

void obey(int number, siginfo_t* info, void* context);

SignalChain sigusr2_chain = {SIGUSR2, obey, false, {}, 0, 0};

/// Others are called as well. But a walsender takes the signal for the postmaster's word that the
/// server shuts down, and ends its connection at the next error: what the watcher sends is not
/// that.
void obey(int /*number*/, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    hold_signals([info, context] {
        handle_signal(&sigusr2_chain, info, context, [](pid_t sender) {
            const bool is_order = serve_order();
            return MyBackendType != B_WAL_SENDER || sender == PostmasterPid ||
                   (sender == 0 && !is_order);
        });
    });
    errno = saved_errno;
}

} // namespace

void begin_to_obey(uint32 statement, const EndWait& how_to_end_wait) {
    Assert(obeying == 0 && statement != 0);
    allow_own_cancel(&end_of_statement, CancelReason::order);
    lead_signal_chain(&sigusr2_chain); // no language is known to use it for a while
    end_wait = how_to_end_wait;
    obeying = statement;
}

void cease_to_obey() {
    obeying = 0;
    withdraw_own_cancel(&end_of_statement);
}

void strike_statement() {
    hold_signals([] {
        // Whoever has asked for it already is to be told so.
        if (obeying != 0 && !QueryCancelPending)
            ask_own_cancel(&end_of_statement);
    });
}

bool is_strike_of_statement(const ErrorData* error) {
    return is_own_cancel(end_of_statement, error);
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
