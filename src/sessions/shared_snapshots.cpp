#include "sessions/shared_snapshots.h"

#include <cerrno>
#include <unistd.h>

#include "shmem/imported_snapshots.h"

namespace lockguard::pg {

namespace {

/// Has the transaction exported a snapshot?
///
/// Each export is a file, named by the virtual transaction id and numbered from 1. All of them stay
/// until the transaction has ended and given its locks back. An export that fails to write its file
/// takes the transaction with it, as no subtransaction may export. So the first file tells.
bool has_exported_snapshot(const SessionId& session) {
    char path[MAXPGPATH];
    // Processes of the server run in the data directory.
    snprintf(path, sizeof(path), "pg_snapshots/%08X-%08X-1",
             static_cast<unsigned>(compat::vxid_number_of(GetPGProcByNumber(session.procno))),
             session.lxid);
    return access(path, F_OK) == 0 || errno != ENOENT;
}

} // namespace

bool shares_snapshot(const SessionId& session) {
    return has_imported_snapshot(session.procno, session.pid, session.lxid) ||
           has_exported_snapshot(session);
}

} // namespace lockguard::pg
