// How the entries of a LockTable are read. What no lock table can contain (a session that does not
// exist, a mode outside 1 to 8, a slice outside its array, a lock without a conflict table, a
// session that waits for itself) is not usable: callers leave it out as if it were not there.
#pragma once

#include "core/lock_graph.h"

#include <bit>

namespace lockguard::core {

/// The bits of the modes that a lock can have: 1 to 8.
inline constexpr ModeMask kRealModes = (ModeMask{1} << kMaxLockMode) - 2;

inline bool is_real_mode(LockMode mode) {
    return mode != kNoLockMode && mode < kMaxLockMode;
}

inline ModeMask conflicts_of(const Lock& lock, LockMode mode) {
    return static_cast<ModeMask>(lock.conflicts[mode]) & kRealModes;
}

/// Calls visit(mode) for each mode of the set.
template <class Visit>
void for_each_mode(ModeMask modes, Visit visit) {
    for (; modes != 0; modes &= modes - 1)
        visit(static_cast<LockMode>(std::countr_zero(modes)));
}

inline bool is_session(const LockTable& table, SessionIndex session) {
    return session < table.sessions.size();
}

inline bool is_usable(const LockTable& table, const Lock& lock) {
    return lock.conflicts != nullptr &&
           std::uint64_t{lock.first_holder} + lock.holder_count <= table.holders.size() &&
           std::uint64_t{lock.first_waiter} + lock.waiter_count <= table.waiters.size();
}

inline bool is_usable(const LockTable& table, const Waiter& waiter) {
    return is_session(table, waiter.session) && is_real_mode(waiter.wanted);
}

inline bool is_usable(const LockTable& table, const DirectWait& wait) {
    return is_session(table, wait.waiter) && is_session(table, wait.blocker) &&
           wait.waiter != wait.blocker && (wait.held == kNoLockMode || is_real_mode(wait.held));
}

/// Of a usable lock.
inline std::span<const Holder> holders_of(const LockTable& table, const Lock& lock) {
    return table.holders.subspan(lock.first_holder, lock.holder_count);
}

/// Of a usable lock, in the order of the queue.
inline std::span<const Waiter> waiters_of(const LockTable& table, const Lock& lock) {
    return table.waiters.subspan(lock.first_waiter, lock.waiter_count);
}

} // namespace lockguard::core
