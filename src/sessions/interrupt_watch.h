// What is sent to this session while it swallows a lock timeout, so that nothing is lost with it.
//
// ProcessInterrupts() serves everything that has struck with one error. Whoever swallows "canceling
// statement due to lock timeout" swallows with it a statement_timeout that struck in the same
// instant, and a cancel request; for both of them come as SIGINT, like the lock timeout itself. So
// the arrival of SIGINT is counted here, apart from those that the process sends to itself (the
// server's timeouts do), and whether statement_timeout is still to come can be asked.
//
// What can't be told apart: two signals of one number that arrive while the first of them waits to
// be delivered become one. The signal of the server's own lock timeout is delivered before the
// kill() that sends it returns, so that window is the end of one system call. The guard's own limit
// (locks/wait_sampler) sends no signal, and leaves no such window.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// As of the beginning of what may be swallowed. Plain data.
struct InterruptMarks {
    uint32 cancels;         // SIGINTs from other processes, so far
    bool statement_timeout; // it was to come
};

/// From then on SIGINT is noted in this process. Never ereports.
void watch_interrupts();

/// Likewise, and with whom it is from, also where others have come to handle it meanwhile
/// (sessions/signal_chain). For the client's own statements: not while a function of some language
/// may run. Never ereports.
void renew_interrupt_watch();

/// Notes what is in force now, and watches. What has come before is not told by the marks, and
/// might be pending still: so whoever will swallow something checks for interrupts after this.
/// Never ereports.
InterruptMarks mark_interrupts();

/// Has another process sent SIGINT since, whatever has become of it? Never ereports.
bool cancel_came(const InterruptMarks& marks);

/// Has the error this message of the server's, untranslated? A parallel worker's comes without its
/// id, in the language of this session. Never ereports.
bool has_server_message(const ErrorData* error, const char* message);

/// Is this the server's own "canceling statement due to user request"? Never ereports.
bool is_cancel_request(const ErrorData* error);

/// Is this the server's own "canceling statement due to statement timeout"? Never ereports.
bool is_statement_timeout(const ErrorData* error);

/// To be called after an error was swallowed, with the transaction sound again: raises what struck
/// along with it, by the words and SQLSTATE of the server (57014), and serves whatever else is
/// pending.
void raise_swallowed_interrupts(const InterruptMarks& marks);

/// Prepares put_off_interrupts(). May ereport.
void allow_putting_off_interrupts();

/// In the report of a message, so from an emit_log_hook: the check for interrupts that ends the
/// report finds none of those that are pending so far. They are served at the first check after 10
/// ms, or after resume_interrupts(). What strikes after this, in the less than a microsecond that
/// is left, is served there. Not for messages that may come in a loop: there is no end to the
/// putting off. Never ereports.
void put_off_interrupts();

/// Has to follow, also after an error: that stops the clock of all timeouts. Never ereports.
void resume_interrupts();

} // namespace lockguard::pg
