#include "sessions/interrupt_watch.h"

#include <csignal>

#include "sessions/cancel_round.h"

namespace lockguard::pg {

namespace {

/// Written by the handler alone.
volatile uint32 cancels;

/// Of those that this process asks for itself; see note_own_cancel(). Written with signals held
/// off.
volatile uint32 own_cancels;

/// The server's own, which ours calls.
struct sigaction server_handler;

/// Has one of the server's timeouts sent that signal? It says so elsewhere before it sends it.
bool is_of_timeout(const siginfo_t& info) {
    return info.si_pid == MyProcPid && (get_timeout_indicator(STATEMENT_TIMEOUT, false) ||
                                        get_timeout_indicator(LOCK_TIMEOUT, false));
}

void count_and_pass_on(int number, siginfo_t* info, void* context) {
    // First counted, then noted by the server: who finds the note can see the count.
    const bool by_timeout = is_of_timeout(*info);
    if (!by_timeout)
        cancels = cancels + 1;
    note_sent_request(by_timeout);
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
    // Between its count and the server's note nobody else must ask, or look.
    sigaddset(&ours.sa_mask, SIGALRM);
    sigaddset(&ours.sa_mask, SIGUSR2);
    ours.sa_flags |= SA_SIGINFO;
    ours.sa_sigaction = count_and_pass_on;
    sigaction(SIGINT, &ours, nullptr);
}

bool statement_timeout_is_to_come() {
    return get_timeout_active(STATEMENT_TIMEOUT) || get_timeout_indicator(STATEMENT_TIMEOUT, false);
}

} // namespace

bool has_server_message(const ErrorData* error, const char* message) {
    if (error->message_id != nullptr)
        return strcmp(error->message_id, message) == 0;
    return error->message != nullptr && strcmp(error->message, gettext(message)) == 0;
}

bool is_cancel_request(const ErrorData* error) {
    return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
           has_server_message(error, "canceling statement due to user request");
}

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
