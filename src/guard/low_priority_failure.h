// The error of a statement whose patience at low priority is over.
#pragma once

#include "core/wait_policy.h"
#include "guard/low_priority_account.h"

namespace lockguard::pg {

/// Why patience is over, where that is not a limit on the whole wait.
struct WaitFailure {
    std::uint32_t kept_waiting = 0; // sessions
    core::Microseconds kept_waiting_for = 0;
    int ring_with = 0;                  // pid of a pg_repack that waits for this transaction
    const char* nobody_ended = nullptr; // why, with ddl_on_timeout = terminate
    const char* decided = nullptr;      // who decided so, in words
};

/// Counts it, and raises 55P03, which names who is in the way now. Needs a transaction.
///
/// \param own_limit  the limit on the whole wait is the session's own lock_timeout
[[noreturn]] void raise_wait_failure(const WaitAccount& account, const core::WaitPolicy& policy,
                                     bool own_limit, const WaitFailure& failure);

} // namespace lockguard::pg
