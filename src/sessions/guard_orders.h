// Orders to a guarded statement, from the process that watches whom it keeps waiting
// (shmem/guarded_sessions): to end the wait for a lock in which it is, or to end altogether.
//
// They come by a signal of their own, SIGUSR2, which sessions ignore otherwise: so a user's cancel
// request (SIGINT) is never mistaken for one of them, nor lost together with it. The order names
// the statement, and the handler compares: an order for a statement that is over does nothing. From
// there on it is served as a cancel request is, at the next check for interrupts.
//
// Lock order, for the sender: the session's fpInfoLock, LW_SHARED; then the spinlock of the report.
#pragma once

#include "boundary/compat.h"
#include "shmem/guarded_sessions.h"

namespace lockguard::pg {

// ---- The session that is guarded

/// Ends waits for locks, in a signal handler.
struct EndWait {
    void (*own)(TimestampTz wait_start); // that in which this process is since that time, if it is
    void (*of_worker)();                 // that of a parallel worker
};

/// From now on orders for the statement of this number (more than 0) are obeyed. Serves what is
/// pending now, and so may ereport: then they are not.
///
/// \param end_wait  obeys GuardOrder::end_wait and end_worker_wait
void begin_to_obey(uint32 statement, const EndWait& end_wait);

/// They are not any more. A cancellation that is ours and has ended nothing yet never will. Never
/// ereports: for error paths too.
void cease_to_obey();

/// Asks for the end of the statement that obeys, as GuardOrder::cancel does; for whoever finds that
/// within this process. Safe in a signal handler.
void strike_statement();

/// Is this error the end that was asked for, of the latest statement that obeyed, and nobody else's
/// request? To be asked before any check for interrupts after it was raised. Never ereports.
bool is_strike_of_statement(const ErrorData* error);

// ---- The watcher

enum class OrderResult {
    sent,
    other_statement, // the session, its transaction or its guarded statement is another
    signal_failed,   // the operating system refused
};

/// Sends the order, if at this moment the session is in that transaction and in that guarded
/// statement. While it is held in the transaction, by its fpInfoLock, its pid is in nobody else's
/// hands. Never ereports.
OrderResult send_guard_order(int procno, const GuardedSession& session, GuardOrder order,
                             const StallReport& report);

} // namespace lockguard::pg
