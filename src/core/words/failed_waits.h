// What is said of a guarded statement that could not have a lock.
#pragma once

#include "core/words/culprits.h"

#include <cstdint>
#include <memory_resource>
#include <span>
#include <string_view>

namespace lockguard::core {

/// What a guarded statement waited for in vain.
struct FailedWaitWords {
    std::string_view command;   // command tag: "ALTER TABLE"
    std::string_view lock_mode; // "AccessExclusiveLock"
    std::string_view object;    // "public.users", or words for another kind of lock
    Microseconds waited;
    std::span<const Culprit> culprits; // the holders; empty where only the queue stood ahead
    /// Sessions that wait for what the statement's own transaction holds, and the longest wait
    /// among them, where that is the reason for the failure.
    std::uint32_t kept_waiting = 0;
    Microseconds kept_waiting_for = 0;
};

/// "ALTER TABLE waited 2.0 s for AccessExclusiveLock on public.users. Blocked by PID 4711 (app
/// "sidekiq", user shop, idle in transaction for 10 min): SELECT ...". Names at most
/// kNamedCulprits and counts the rest; queries are cut to kQueryBytes at a character boundary and
/// their white space is folded. Without culprits it says that the statement was queued behind other
/// requests.
std::string_view failed_wait_detail(const FailedWaitWords& wait, std::pmr::memory_resource& memory);

/// What to do now, in one sentence, for the first culprit.
std::string_view failed_wait_hint(const FailedWaitWords& wait, std::pmr::memory_resource& memory);

} // namespace lockguard::core
