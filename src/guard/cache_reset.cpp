#include "guard/cache_reset.h"

#include "locks/own_locks.h"

extern "C" {
#include "access/xact.h"
#include "utils/inval.h"
#include "utils/relcache.h"
#include "utils/resowner.h"
}

namespace lockguard::pg {

namespace {

/// Of the (sub)transaction in which a statement runs, the outermost; 0 where none does. After an
/// error it stays until that is rolled back.
int nest_level;

/// Of the last thing that an abort lets go of, when all entries are closed and what it knows of has
/// been taken back. Interrupts are held off, and catalogs cannot be read: what is open, outside of
/// a subtransaction, is read anew when it is next opened.
void on_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void* /*argument*/) {
    if (nest_level == 0 || is_commit || phase != RESOURCE_RELEASE_AFTER_LOCKS ||
        CurrentResourceOwner != CurTransactionResourceOwner || IsTransactionState())
        return;
    const int aborted = GetCurrentTransactionNestLevel();
    if (aborted <= nest_level)
        nest_level = 0;
    if (!TransactionIdIsValid(GetCurrentTransactionIdIfAny()))
        return;
    InvalidateSystemCaches();
    if (is_top_level)
        return;
    // That leaves out the relations whose file the transaction itself has replaced before: nobody
    // else could have changed them.
    for (const OwnLock& lock : find_own_locks()) {
        if ((lock.modes & LOCKBIT_ON(AccessExclusiveLock)) != 0)
            RelationCacheInvalidateEntry(lock.relation);
    }
}

} // namespace

void CacheReset::enter() {
    static bool called_back;
    if (!called_back) {
        RegisterResourceReleaseCallback(on_release, nullptr);
        called_back = true;
    }
    outer_ = nest_level;
    const int now = GetCurrentTransactionNestLevel();
    if (nest_level == 0 || now < nest_level)
        nest_level = now;
}

void CacheReset::leave() const {
    nest_level = outer_;
}

} // namespace lockguard::pg
