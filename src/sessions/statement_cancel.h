// Cancels the statement that a session was seen in, and no other one.
//
// A cancel request (SIGINT) is for whatever the process does when it serves it. cancel_statement()
// sends it while the session is held in its transaction, and as the step after the one in which it
// has seen it in that statement. What is left:
// - From the look at the status to the signal, below a microsecond (docs/reference.md has what was
//   measured): nothing in PostgreSQL keeps a session in a statement. A statement of the same
//   transaction that begins in between is cancelled in the other's place.
// - From the signal on nothing else can be hit. It is delivered before the process runs its next
//   instruction after a system call, and PostgreSQL drops a cancel request that it has not served
//   when it comes to read the next command. So a statement that ends by itself before it checks for
//   interrupts ends as if nothing had happened.
//
// Lock order: the session's fpInfoLock, LW_SHARED; then the spinlock of the notice, and whatever
// the caller's condition takes.
#pragma once

#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// What a client has sent and its session works on: a statement, or several in one message; or one
/// step (parse, bind, execute) of the extended protocol. No two of a session have the same start.
struct StatementIdentity {
    SessionId session;
    TimestampTz start; // since when it has been active: BackendStateOnly::state_start
};

enum class CancelResult {
    signaled,
    other_transaction, // the session, or its transaction, is another
    other_statement,   // it is idle, or in another statement
    commits,       // it waits for synchronous standbys: a cancel would report a commit that they
                   // do not have
    not_wanted,    // the caller's condition no longer holds
    signal_failed, // the operating system refused
};

/// Asked while the session can't leave its transaction, under its fpInfoLock. It may take a
/// partition lock of the lock table or a spinlock, and nothing else; no allocation, no ereport.
using CancelCondition = bool (*)(const void* argument);

/// Has the session cancel its statement (SIGINT, to its process group, as pg_cancel_backend()), and
/// leaves word of the reason for it, if at this moment it is in this very statement. Checks no
/// privileges, and not what kind of process it is: a client backend, please. Takes the session's
/// fpInfoLock. Never ereports.
///
/// \param detail     what its client is to read; null to send and say nothing
/// \param hint       likewise
/// \param condition  null for none
/// \param message    in place of the server's "... due to user request"; null for that one
CancelResult cancel_statement(const StatementIdentity& statement, const char* detail,
                              const char* hint, CancelCondition condition = nullptr,
                              const void* argument = nullptr, const char* message = nullptr);

/// The same without notice and signal: would it do it?
CancelResult rehearse_cancel(const StatementIdentity& statement,
                             CancelCondition condition = nullptr, const void* argument = nullptr);

/// Does the process wait until synchronous standbys have its commit? Looks without a lock.
bool waits_for_standbys(int procno);

/// Is the session still in that statement? Looks without a lock.
bool is_in_statement(const StatementIdentity& statement);

/// The result in words, after "PID n is left alone: ".
const char* cancel_result_text(CancelResult result);

} // namespace lockguard::pg
