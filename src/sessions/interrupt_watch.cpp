#include "sessions/interrupt_watch.h"

#include <csignal>

#include "sessions/cancel_round.h"
#include "sessions/signal_chain.h"

extern "C" {
#include "postmaster/bgworker.h"
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

/// From other processes. Written by the handler alone.
volatile uint32 cancels;

bool has_timeout_struck() {
    return get_timeout_indicator(STATEMENT_TIMEOUT, false) ||
           get_timeout_indicator(LOCK_TIMEOUT, false);
}

void note_sigint(int number, siginfo_t* info, void* context);

SignalChain sigint_chain = {SIGINT, note_sigint, true, {}, 0, 0};

/// Does the server serve cancel requests in this process?
bool can_be_cancelled() {
    return MyBackendType != B_BG_WORKER || MyBgworkerEntry == nullptr ||
           (MyBgworkerEntry->bgw_flags & BGWORKER_BACKEND_DATABASE_CONNECTION) != 0;
}

/// What the server's handler does. One of the others may not have called it: PostgreSQL 17 keeps
/// one handler for each signal, which is then his, and behind which there is ours.
void note_for_server() {
    if (proc_exit_inprogress || !is_main_thread() || !can_be_cancelled())
        return;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
}

/// First noted, then passed on to the server: who finds its note can see ours.
void note_sigint(int /*number*/, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    hold_signals([info, context] {
        handle_signal(&sigint_chain, info, context, [](pid_t sender) {
            // One of the server's timeouts says so elsewhere before it sends the signal to its
            // process.
            const bool by_timeout = (sender == MyProcPid || sender == 0) && has_timeout_struck();
            // A statement that cancels itself does so again when it is tried again.
            if (!by_timeout && sender != MyProcPid)
                cancels = cancels + 1;
            note_sent_request(by_timeout);
            return true;
        });
        note_for_server();
    });
    errno = saved_errno;
}

/// In ms. So long that a process that is not run for a moment does not find it at its end.
constexpr int kPutOff = 10;

bool have_been_put_off;
bool is_clock_registered;
TimeoutId clock_of_put_off;

void serve_at_next_check() {
    InterruptPending = true;
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

bool is_statement_timeout(const ErrorData* error) {
    return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
           has_server_message(error, "canceling statement due to statement timeout");
}

void watch_interrupts() {
    enter_signal_chain(&sigint_chain);
}

void renew_interrupt_watch() {
    lead_signal_chain(&sigint_chain);
}

InterruptMarks mark_interrupts() {
    watch_interrupts();
    return {cancels, statement_timeout_is_to_come()};
}

bool cancel_came(const InterruptMarks& marks) {
    return cancels != marks.cancels;
}

void raise_swallowed_interrupts(const InterruptMarks& marks) {
    // Before what is pending: where it struck while another request was being answered, it has been
    // told of in that error, and what is still pending of it looks like the user's.
    if (marks.statement_timeout && !statement_timeout_is_to_come())
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
                        errmsg("canceling statement due to statement timeout")));
    // ProcessInterrupts() stops at the first error, and what it has not come to stays noted, but
    // not the note that there is something to serve.
    InterruptPending = true;
    CHECK_FOR_INTERRUPTS();
    if (cancel_came(marks))
        ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED),
                        errmsg("canceling statement due to user request")));
}

void allow_putting_off_interrupts() {
    if (is_clock_registered)
        return;
    clock_of_put_off = RegisterTimeout(USER_TIMEOUT, serve_at_next_check);
    is_clock_registered = true;
}

void put_off_interrupts() {
    Assert(is_clock_registered);
    if (!InterruptPending || InterruptHoldoffCount != 0 || CritSectionCount != 0)
        return; // nothing would be served
    have_been_put_off = true;
    // What is pending stays noted (QueryCancelPending and the like); this only says that there is
    // something.
    InterruptPending = false;
    enable_timeout_after(clock_of_put_off, kPutOff);
}

void resume_interrupts() {
    if (!have_been_put_off)
        return;
    have_been_put_off = false;
    serve_at_next_check();
}

} // namespace lockguard::pg
