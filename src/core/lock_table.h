// What one look at the lock table shows, as plain data: who holds what, and who queues in which
// order.
//
// What no lock table can contain (a session that does not exist, a mode outside 1 to 8, a slice
// outside its array, a lock without a conflict table, a session that waits for itself) is not
// usable: whoever reads a LockTable leaves it out as if it were not there.
#pragma once

#include "core/time.h"

#include <bit>
#include <cstdint>
#include <span>

namespace lockguard::core {

/// Index into LockTable::sessions.
using SessionIndex = std::uint32_t;

/// A lock mode's number as in PostgreSQL's LOCKMODE: 1 (AccessShareLock) to 8
/// (AccessExclusiveLock). 0 means "no lock mode", as for a safe-snapshot wait.
using LockMode = std::uint8_t;
inline constexpr LockMode kNoLockMode = 0;
inline constexpr LockMode kAccessExclusive = 8;
inline constexpr unsigned kMaxLockMode = 9;

/// A set of lock modes; bit n stands for mode n, as in PostgreSQL's LOCKMASK.
using ModeMask = std::uint32_t;
constexpr ModeMask mode_bit(LockMode mode) {
    return ModeMask{1} << mode;
}

/// A session, seen as its lock group (a parallel query counts as its leader), or a prepared
/// transaction (pid 0).
struct Session {
    std::int32_t pid;
};

/// A session that holds modes of a lock.
struct Holder {
    SessionIndex session;
    ModeMask held;
};

/// A session that queues for a mode of a lock.
struct Waiter {
    SessionIndex session;
    LockMode wanted;
    std::uint32_t wait = 0;         // which wait it is, to the caller
    Timestamp since = kUnknownTime; // when the wait began; only core/lock_order asks
};

/// What a wait is for: whether it counts where somebody is kept waiting (core/kept_waiting).
enum class WaitKind : std::uint8_t {
    data,     // a relation, or a row: by its tuple, by the transaction or the insertion that has it
    object,   // any other object of the server
    arranged, // what is made to be waited for: an advisory lock, a virtual transaction's end, a
              // safe snapshot
};

/// One lock with a queue: a slice of LockTable::holders and one of LockTable::waiters, the latter
/// in queue order.
struct Lock {
    std::uint32_t first_holder;
    std::uint32_t holder_count;
    std::uint32_t first_waiter;
    std::uint32_t waiter_count;
    /// conflicts[m] is the set of modes that conflict with mode m; kMaxLockMode entries or more.
    const std::int32_t* conflicts;
    WaitKind kind = WaitKind::data;
};

/// A wait that is no queue of the lock table: for a safe snapshot, or at low priority. All of its
/// blockers hold what it waits for.
struct DirectWait {
    SessionIndex waiter;
    SessionIndex blocker;
    LockMode held; // the mode that the blocker holds, or kNoLockMode
    WaitKind kind = WaitKind::data;
    std::uint32_t wait = 0; // as in Waiter
    Timestamp since = kUnknownTime;
};

/// What one look at the lock table shows.
struct LockTable {
    std::span<const Session> sessions;
    std::span<const Lock> locks;
    std::span<const Holder> holders;
    std::span<const Waiter> waiters;
    std::span<const DirectWait> direct_waits;
};

// ---- How its entries are read

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
