#include "guard/low_priority_attention.h"

#include "boundary/clock.h"
#include "guard/repack_ring.h"
#include "sessions/signals.h"
#include "shmem/wait_board.h"

namespace lockguard::pg {

bool WaitAttention::look_after(const AwaitedHolders& holders, WaitFailure* failure) {
    if (core::is_long_wait(rhythm_, account_.waited())) {
        for (const AwaitedHolder& holder : holders.holders) {
            // As the deadlock detector does for those that stand in the queue.
            if (holder.type == B_AUTOVAC_WORKER && !holder.against_wraparound)
                cancel_transaction(session_of(holder));
        }
        failure->ring_with = find_ring_with_repack(holders);
        if (failure->ring_with != 0)
            return false;
    }
    account_.note_waiting(holders);
    return !core::is_time_to_look_behind(rhythm_, steady_now()) ||
           mind_those_behind(holders, failure);
}

/// In a transaction that holds locks, politeness has an end.
bool WaitAttention::mind_those_behind(const AwaitedHolders& holders, WaitFailure* failure) {
    if (behind_ == nullptr) {
        MemoryContext caller = MemoryContextSwitchTo(statement_context_);
        behind_ = new_behind_record();
        MemoryContextSwitchTo(caller);
    }
    WaitersBehind behind = look_behind(behind_);
    kept_waiting_ = behind.sessions;
    kept_waiting_for_ = behind.longest;
    core::looked_behind(rhythm_, steady_now(), kept_waiting_ > 0 ? kept_waiting_for_ : -1);
    if (behind.ring == RingState::closed_by_us)
        raise_deadlock(behind);
    if (behind.ring == RingState::closed_by_other && !behind.closer_looks) {
        sleep_for_deadlock_check(holders, behind);
        return true;
    }
    if (!core::has_kept_waiting_too_long(rhythm_, behind.longest))
        return true;
    failure->kept_waiting = behind.sessions;
    failure->kept_waiting_for = behind.longest;
    return false;
}

/// A ring that a plain session has closed is found by its own deadlock check, if we sleep on our
/// place in the ring at that time. Where it is still there afterwards, the check is ours.
void WaitAttention::sleep_for_deadlock_check(const AwaitedHolders& holders,
                                             const WaitersBehind& behind) {
    for (const AwaitedHolder& holder : holders.holders) {
        if (holder.procno != behind.ring_holder.procno || holder.pid != behind.ring_holder.pid)
            continue;
        core::RingSleep sleep =
            core::sleep_in_ring(rhythm_, steady_now(), GetCurrentTimestamp() - behind.ring_closed);
        sleep_until_end(holder.vxid, sleep.duration,
                        sleep.check_at_once ? DeadlockCheck::at_once : DeadlockCheck::no);
        check_client();
        return;
    }
}

/// Returns the pid of the pg_repack; 0 for none.
int WaitAttention::find_ring_with_repack(const AwaitedHolders& holders) {
    if (!account_.is_lock_known() || !core::is_time_to_look_for_repack(rhythm_, steady_now()))
        return 0;
    return repack_that_waits_for_us(account_.lock(), holders);
}

DeadlockCheck WaitAttention::check_for_deadlock() {
    bool due = !shared_state_available() && core::is_long_wait(rhythm_, account_.waited()) &&
               anybody_waits_for_us(Behind::anybody) &&
               core::is_time_for_deadlock_check(rhythm_, steady_now(), account_.waited());
    return due ? DeadlockCheck::at_once : DeadlockCheck::no;
}

} // namespace lockguard::pg
