// The words of a statement that waits at low priority: what it does next, what its client is told
// meanwhile, and how it is told who has decided for it.
#pragma once

#include "core/words/failed_waits.h"

#include <cstdint>
#include <memory_resource>
#include <string_view>

namespace lockguard::core {

/// What a statement that waits at low priority does next.
enum class NextStep : std::uint8_t {
    try_locks,
    await_holders,
    retry,
    stand_in_queue,
    finish,
    end_holders
};

/// "tries again when a holder's transaction ends, at the latest in 250 ms" and the like.
///
/// \param within  the latest end of the present step; negative where it is open
std::string_view next_step_text(NextStep step, Microseconds within, bool against_wraparound,
                                std::pmr::memory_resource& memory);

/// What comes when patience ends.
enum class PatienceEnd : std::uint8_t {
    failure,
    queue,
    termination,
    statement_timeout,
    transaction_timeout
};

/// A wait that goes on. `wait` says what the error would say of it now.
struct WaitWords {
    FailedWaitWords wait;
    Microseconds patience; // that is left; negative for no limit
    PatienceEnd end;
    std::int32_t pid;  // of the session that waits
    bool is_decidable; // pg_lockguard_decide() works
};

/// "ALTER TABLE has waited 10 s for AccessExclusiveLock on public.users"
std::string_view wait_notice_message(const WaitWords& waiting, std::pmr::memory_resource& memory);

/// "Nobody waits behind it, and it waits for as long as it takes. Blocked by PID 4711 (...): SELECT
/// ...": who waits behind it, when its patience ends, who is in the way.
std::string_view wait_notice_detail(const WaitWords& waiting, std::pmr::memory_resource& memory);

/// What can be done, for the first culprit and for the statement.
std::string_view wait_notice_hint(const WaitWords& waiting, std::pmr::memory_resource& memory);

/// The same for the moment when it stops waiting outside of the queue and stands in it for good.
std::string_view queue_notice_message(const WaitWords& waiting, std::pmr::memory_resource& memory);

/// Who has decided for a statement.
struct Decider {
    std::int32_t pid;
    std::string_view role;        // may be empty
    std::string_view application; // may be empty
    std::string_view decision;    // "give up"
};

/// `PID 5000 (app "psql", user admin) decided: give up`
std::string_view decision_text(const Decider& decider, std::pmr::memory_resource& memory);

} // namespace lockguard::core
