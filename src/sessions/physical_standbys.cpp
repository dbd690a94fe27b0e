#include "sessions/physical_standbys.h"

extern "C" {
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/spin.h"
}

namespace lockguard::pg {

bool has_physical_standby() {
    if (!XLogStandbyInfoActive() || WalSndCtl == nullptr)
        return false;
    for (int i = 0; i < max_wal_senders; i++) {
        WalSnd* sender = &WalSndCtl->walsnds[i];
        SpinLockAcquire(&sender->mutex);
        int pid = sender->pid;
        WalSndState state = sender->state;
        SpinLockRelease(&sender->mutex);
        if (pid == 0 || state == WALSNDSTATE_BACKUP)
            continue;
        // A logical one is connected to a database.
        const PGPROC* proc = BackendPidGetProc(pid);
        if (proc != nullptr && !OidIsValid(proc->databaseId))
            return true;
    }
    return false;
}

} // namespace lockguard::pg
