#include "guard/low_priority_failure.h"

#include "boundary/valid_text.h"
#include "guard/lock_timeout_report.h"
#include "shmem/counters.h"

namespace lockguard::pg {

void raise_wait_failure(const WaitAccount& account, const core::WaitPolicy& policy, bool own_limit,
                        const WaitFailure& failure) {
    // Who has kept others waiting for too long fails by ddl_lock_timeout.
    bool by_lock_timeout = own_limit || failure.kept_waiting > 0 || failure.ring_with != 0;
    count(by_lock_timeout ? Counter::timeouts_lock : Counter::timeouts_total);
    // Outside of the queue, who came last is in the way as much as who came first.
    AwaitedLock lock = {GetCurrentTimestamp(), account.is_lock_known(), account.lock().tag,
                        account.lock().mode};
    Explanation explanation =
        explain(account.statement(),
                {lock, account.waited(), failure.kept_waiting, failure.kept_waiting_for,
                 policy.longest_stay, static_cast<int32>(policy.attempts)});
    const char* detail = explanation.detail;
    const char* hint = explanation.hint;
    const char* separator = detail == nullptr ? "" : "\n";
    const char* so_far = detail == nullptr ? "" : detail;
    if (failure.decided != nullptr)
        detail = psprintf("%s%s%s.", so_far, separator, failure.decided);
    if (failure.nobody_ended != nullptr)
        detail = psprintf("%s%sNobody was ended: %s.", so_far, separator, failure.nobody_ended);
    if (failure.ring_with != 0) {
        detail = psprintf("%s%sPID %d is of pg_repack, which waits for this transaction to end.",
                          so_far, separator, failure.ring_with);
        hint = "Roll back, and run the statement outside of a transaction block, or when "
               "pg_repack has finished.";
    }
    ereport(ERROR,
            (errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("canceling statement due to lock timeout"),
             detail != nullptr ? errdetail_internal("%s", text_for_client(detail)) : 0,
             hint != nullptr ? errhint("%s", hint) : 0));
}

} // namespace lockguard::pg
