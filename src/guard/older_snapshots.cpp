#include "guard/older_snapshots.h"

#include "sessions/backend_status.h"

extern "C" {
#include "utils/snapmgr.h"
}

namespace lockguard::pg {

namespace {

/// Where it can't be told, it counts as long.
bool has_lasted(VirtualTransactionId transaction, core::Microseconds age, TimestampTz now) {
    // Read without a lock: a wrong moment only means that it is asked again.
    const PGPROC* proc = compat::proc_of_vxid(transaction);
    BackendStateOnly state;
    return proc == nullptr || !read_backend_state({compat::procno_of(proc), proc->pid}, &state) ||
           state.xact_start == 0 || now - state.xact_start > age;
}

TransactionId own_xmin() {
    PushActiveSnapshot(GetTransactionSnapshot());
    TransactionId xmin = GetActiveSnapshot()->xmin;
    PopActiveSnapshot();
    return xmin;
}

} // namespace

bool waits_for_older_snapshots(const Node* statement) {
    if (!IsA(statement, AlterTableStmt))
        return false;
    const List* commands = reinterpret_cast<const AlterTableStmt*>(statement)->cmds;
    for (int i = 0; i < list_length(commands); i++) {
        if (static_cast<const AlterTableCmd*>(list_nth(commands, i))->subtype ==
            AT_DetachPartitionFinalize)
            return true;
    }
    return false;
}

bool find_older_snapshot(core::Microseconds age, VirtualTransactionId* transaction) {
    int count;
    // Whom WaitForOlderSnapshots() of indexcmds.c waits for.
    const VirtualTransactionId* all = GetCurrentVirtualXIDs(
        own_xmin(), true, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM | PROC_IN_SAFE_IC, &count);
    const TimestampTz now = GetCurrentTimestamp();
    for (int i = 0; i < count; i++) {
        if (!has_lasted(all[i], age, now))
            continue;
        *transaction = all[i];
        return true;
    }
    return false;
}

} // namespace lockguard::pg
