// pg_lockguard.ddl_notice_interval: what the client of a statement that waits at low priority is
// told meanwhile.
#pragma once

#include "core/words/waits.h"

#include "boundary/compat.h"
#include "guard/low_priority_account.h"
#include "locks/waiters_behind.h"

namespace lockguard::pg {

/// What the statement itself knows of its future.
struct WaitOutlook {
    core::Timestamp deadline; // by the steady clock; core::kUnknownTime where there is none
    core::PatienceEnd end;
    std::uint32_t kept_waiting; // as in core::FailedWaitWords
    core::Microseconds kept_waiting_for;
};

/// Of one statement. Plain data.
///
/// The first NOTICE is due when the statement has waited for deadlock_timeout, as log_lock_waits
/// has it; each further one pg_lockguard.ddl_notice_interval later. The setting is read anew each
/// time. They wait for no client (boundary/client_notice).
class WaitNotices {
  public:
    /// How long until the next one is due; INT64_MAX where none ever is, as things are.
    core::Microseconds until_due(const WaitAccount& account) const;

    /// Sends it, if it is due, anybody would read it, and the statement does not fail in the next
    /// moment. To be called while the statement waits, outside of any subtransaction. Says who is
    /// in the way, as far as the statement's user may know it. Needs a transaction. Leaves nothing
    /// in the current memory context, and holds no snapshot of the catalogs afterwards. May
    /// ereport; serves interrupts.
    void attend(const WaitAccount& account, const WaitOutlook& outlook);

    /// Says that the statement stands in the queue from now on, where a NOTICE has been due before.
    void tell_queue(const WaitAccount& account, const WaitOutlook& outlook) const;

  private:
    core::Timestamp sent_at_ = 0; // 0: none yet
};

} // namespace lockguard::pg
