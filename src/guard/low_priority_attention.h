// Whom a statement minds while it waits at low priority: who waits behind it, the rings in which it
// stands, an autovacuum in its way.
#pragma once

#include "core/wait_rhythm.h"
#include "guard/low_priority_account.h"
#include "guard/low_priority_failure.h"
#include "guard/low_priority_wait.h"
#include "locks/waiters_behind.h"

namespace lockguard::pg {

/// Of one statement. Plain data, and pointers into memory contexts.
class WaitAttention {
  public:
    /// What it makes lasts as long as the current memory context.
    WaitAttention(WaitAccount& account, core::WaitRhythm& rhythm)
        : account_(account), rhythm_(rhythm), statement_context_(CurrentMemoryContext) {}

    /// Looks after all that is due, while the statement waits for these holders. Returns false
    /// where it must not wait any longer, and why. Needs a transaction, no subtransaction of the
    /// statement's. Raises 40P01 for a ring that this session has closed; serves interrupts.
    bool look_after(const AwaitedHolders& holders, WaitFailure* failure);

    /// What the next sleep is to do about deadlocks. Rings of waits at low priority are seen by
    /// what their members show (locks/waiters_behind). Where the library is not preloaded they show
    /// nothing, and the server's own check must find them.
    DeadlockCheck check_for_deadlock();

    /// Sessions that wait behind the statement, by the latest look ...
    std::uint32_t kept_waiting() const { return kept_waiting_; }
    /// ... the longest of them for so long.
    core::Microseconds kept_waiting_for() const { return kept_waiting_for_; }

  private:
    bool mind_those_behind(const AwaitedHolders& holders, WaitFailure* failure);
    void sleep_for_deadlock_check(const AwaitedHolders& holders, const WaitersBehind& behind);
    int find_ring_with_repack(const AwaitedHolders& holders);

    WaitAccount& account_;
    core::WaitRhythm& rhythm_;
    MemoryContext statement_context_;
    BehindRecord* behind_ = nullptr; // made by the first look: most statements never wait
    std::uint32_t kept_waiting_ = 0;
    core::Microseconds kept_waiting_for_ = 0;
};

} // namespace lockguard::pg
