#include "sessions/session_id.h"

namespace lockguard::pg {

bool find_session(VirtualTransactionId vxid, SessionId* session) {
    // One that was prepared before the server's last start has its xid in the place of an lxid.
    if (VirtualTransactionIdIsRecoveredPreparedXact(vxid))
        return false;
    const PGPROC* proc = compat::proc_of_vxid(vxid);
    if (proc == nullptr)
        return false;
    *session = session_of(proc);
    return session->pid != 0 && session->lxid == vxid.localTransactionId;
}

SessionId leading_session(const SessionId& session) {
    const PGPROC* leader = GetPGProcByNumber(session.procno)->lockGroupLeader;
    return leader == nullptr || leader->pid == 0 ? session : session_of(leader);
}

} // namespace lockguard::pg
