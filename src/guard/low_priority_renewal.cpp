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

/// The server's look at its portals ends at the first that is ready, with its walk over them left
/// open: whoever asks there raises an error then. A hundred walks left open, and no other can
/// begin, not even in an abort, which is a PANIC. The end of a subtransaction closes it.
bool has_ready_portals() {
    bool found = true;
    run_in_subtransaction(
        [&found] {
            found = !ThereAreNoReadyPortals();
            return false;
        },
        [](const ErrorData* /*error*/) { return false; });
    return found;
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
    return !ActiveSnapshotSet() && !is_below(needed, TopTransactionContext) && !has_ready_portals();
}

void renew_transaction() {
    TimestampTz timeout_end = compat::transaction_timeout_end();
    commit_at_once();
    StartTransactionCommand();
    compat::set_transaction_timeout_end(timeout_end);
}

} // namespace lockguard::pg
