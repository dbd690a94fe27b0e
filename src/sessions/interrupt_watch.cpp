#include "sessions/interrupt_watch.h"

#include <csignal>

namespace lockguard::pg {

namespace {

/// Written by the handler alone.
volatile uint32 cancels;

/// Written by whoever asks for a cancellation within this process (note_own_cancel()): a handler
/// that may interrupt the other.
volatile uint32 own_cancels;

/// The server's own, which ours calls.
struct sigaction server_handler;

void count_and_pass_on(int number, siginfo_t* info, void* context) {
    // First counted, then noted by the server: who finds the note can see the count.
    if (info->si_pid != MyProcPid)
        cancels = cancels + 1;
    if ((server_handler.sa_flags & SA_SIGINFO) != 0)
        server_handler.sa_sigaction(number, info, context);
    else if (server_handler.sa_handler != SIG_IGN && server_handler.sa_handler != SIG_DFL)
        server_handler.sa_handler(number);
}

/// Stays in place for the rest of the process, unless somebody puts another one there.
void watch_sigint() {
    struct sigaction present;
    if (sigaction(SIGINT, nullptr, &present) != 0 ||
        ((present.sa_flags & SA_SIGINFO) != 0 && present.sa_sigaction == count_and_pass_on))
        return;
    // The server's own always has a handler here; anything else is somebody's who wants it so.
    if ((present.sa_flags & SA_SIGINFO) == 0 &&
        (present.sa_handler == SIG_IGN || present.sa_handler == SIG_DFL))
        return;
    server_handler = present;
    struct sigaction ours = present; // with its mask, and SA_RESTART
    ours.sa_flags |= SA_SIGINFO;
    ours.sa_sigaction = count_and_pass_on;
    sigaction(SIGINT, &ours, nullptr);
}

bool statement_timeout_is_to_come() {
    return get_timeout_active(STATEMENT_TIMEOUT) || get_timeout_indicator(STATEMENT_TIMEOUT, false);
}

} // namespace

InterruptMarks mark_interrupts() {
    watch_sigint();
    return {cancels + own_cancels, statement_timeout_is_to_come()};
}

bool cancel_came(const InterruptMarks& marks) {
    return cancels + own_cancels != marks.cancels;
}

void note_own_cancel() {
    own_cancels = own_cancels + 1;
}

void forget_own_cancel() {
    own_cancels = own_cancels - 1;
}

uint32 cancels_from_others() {
    return cancels;
}

void raise_swallowed_interrupts(const InterruptMarks& marks) {
    // ProcessInterrupts() stops at the first error, and what it has not come to stays noted, but
    // not the note that there is something to serve.
    InterruptPending = true;
    CHECK_FOR_INTERRUPTS();
    if (marks.statement_timeout && !statement_timeout_is_to_come())
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
                        errmsg("canceling statement due to statement timeout")));
    if (cancel_came(marks))
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
                        errmsg("canceling statement due to user request")));
}

} // namespace lockguard::pg
