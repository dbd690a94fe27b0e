#include "guard/cache_reset.h"

#include "locks/own_locks.h"

extern "C" {
#include "access/xact.h"
#include "utils/catcache.h"
#include "utils/relcache.h"
#include "utils/resowner.h"
}

namespace lockguard::pg {

namespace {

/// Of the outermost (sub)transaction that is to be rolled back for an error of a statement; 0 where
/// there is none.
int doubted_level;

/// What the server does where messages are lost, InvalidateSystemCaches(), but for what others have
/// derived from the caches, as plans: the statement itself has derived nothing since. And but for
/// the snapshot of the catalogs: whoever drops that where a transaction is over gives its process
/// an xmin again, if it had a snapshot for the whole transaction.
void reset_caches(bool is_top_level) {
    ResetCatalogCaches();
    RelationCacheInvalidate(false);
    if (is_top_level)
        return; // which no relation is new for any more
    // That leaves out those which are new for what goes on, or whose file is: nobody else could
    // have changed them. This transaction has a lock on each.
    for (const OwnLock& lock : find_own_locks())
        RelationCacheInvalidateEntry(lock.relation);
}

/// At the last that an abort lets go of: all relations are closed, PostgreSQL has taken back what
/// it knows of, and the id is still there. It comes for the owner of each portal, too. Interrupts
/// are held off, and no catalog can be read: what is open outside of a subtransaction is read anew
/// when it is next opened.
void on_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void* /*argument*/) {
    if (doubted_level == 0 || phase != RESOURCE_RELEASE_AFTER_LOCKS ||
        CurrentResourceOwner != CurTransactionResourceOwner)
        return;
    if (is_commit) {
        if (is_top_level)
            doubted_level = 0; // some library has gone on after the error
        return;
    }
    if (IsTransactionState()) // the owner of something else
        return;
    // Not once more where that fails, for want of memory.
    const int level = doubted_level;
    doubted_level = 0;
    if (TransactionIdIsValid(GetCurrentTransactionIdIfAny()))
        reset_caches(is_top_level);
    if (GetCurrentTransactionNestLevel() > level)
        doubted_level = level;
}

} // namespace

CommandMark begin_command() {
    static bool called_back;
    if (!called_back) {
        RegisterResourceReleaseCallback(on_release, nullptr);
        called_back = true;
    }
    return {compat::lxid_of(MyProc), GetCurrentTransactionNestLevel(), GetCurrentCommandId(false)};
}

void command_failed(CommandMark mark) {
    // Caches are brought up to date as the command counter goes up, and after that.
    if (mark.transaction == compat::lxid_of(MyProc) && mark.command == GetCurrentCommandId(false))
        return;
    if (doubted_level == 0 || mark.nest_level < doubted_level)
        doubted_level = mark.nest_level;
}

} // namespace lockguard::pg
