#include "sessions/signals.h"

#include <csignal>

#include "shmem/termination_notice.h"

namespace lockguard::pg {

namespace {

bool send_to_group(int pid, int signal) {
    Assert(pid > 0); // kill(0) would reach the whole server
#ifdef HAVE_SETSID
    return kill(-pid, signal) == 0;
#else
    return kill(pid, signal) == 0;
#endif
}

/// Calls send(), while the session is held in its transaction.
template <class Send>
bool send_in_transaction(const SessionId& session, Send send) {
    if (session.procno < 0)
        return false; // a prepared transaction
    PGPROC* proc = GetPGProcByNumber(session.procno);
    LWLockAcquire(&proc->fpInfoLock, LW_SHARED);
    bool sent = is_in_transaction(session) && send();
    LWLockRelease(&proc->fpInfoLock);
    return sent;
}

} // namespace

bool is_in_transaction(const SessionId& session) {
    PGPROC* proc = GetPGProcByNumber(session.procno);
    Assert(LWLockHeldByMe(&proc->fpInfoLock));
    return session.pid > 0 && session.lxid != InvalidLocalTransactionId &&
           proc->pid == session.pid && proc->fpLocalTransactionId == session.lxid;
}

bool send_sigterm(int pid) {
    return send_to_group(pid, SIGTERM);
}

bool send_sigint(int pid) {
    return send_to_group(pid, SIGINT);
}

bool leave_word_and_terminate(const SessionId& session, const char* detail) {
    // First the notice: the session may be gone before kill() returns.
    post_termination_notice(session.procno, session.pid, session.lxid, detail);
    if (send_sigterm(session.pid))
        return true;
    withdraw_termination_notice(session.procno, session.pid, session.lxid);
    return false;
}

bool cancel_transaction(const SessionId& session) {
    return send_in_transaction(session, [&session] { return kill(session.pid, SIGINT) == 0; });
}

bool terminate_transaction(const SessionId& session, const char* detail) {
    return send_in_transaction(
        session, [&session, detail] { return leave_word_and_terminate(session, detail); });
}

} // namespace lockguard::pg
