#include "guard/low_priority_renewal.h"

#include "boundary/bridge.h"

extern "C" {
#include "access/xact.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
}

namespace lockguard::pg {

namespace {

bool is_below(MemoryContext context, MemoryContext ancestor) {
    while (context != nullptr && context != ancestor)
        context = context->parent;
    return context != nullptr;
}

/// An attempt that was rolled back may have left the transaction with an id. There is nothing in it
/// that could be lost: so its commit waits for no disk and no standby. (A wait for a standby may
/// have no end, and would swallow a request to cancel the statement.)
void commit_at_once() {
    const int waits_for = synchronous_commit;
    run_guarded(
        [] {
            synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
            CommitTransactionCommand();
        },
        [waits_for] { synchronous_commit = waits_for; });
}

} // namespace

bool can_renew_transaction(MemoryContext needed) {
    return !ActiveSnapshotSet() && ThereAreNoReadyPortals() &&
           !is_below(needed, TopTransactionContext);
}

void renew_transaction() {
    TimestampTz timeout_end = compat::transaction_timeout_end();
    commit_at_once();
    StartTransactionCommand();
    compat::set_transaction_timeout_end(timeout_end);
}

} // namespace lockguard::pg
