// Lock tables and graphs for tests and benchmarks, with PostgreSQL's own conflict table.
#pragma once

#include "core/lock_graph.h"

#include <array>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <utility>
#include <vector>

namespace lockguard::core {

inline constexpr LockMode kAccessShare = 1;
inline constexpr LockMode kRowShare = 2;
inline constexpr LockMode kRowExclusive = 3;
inline constexpr LockMode kShareUpdateExclusive = 4;
inline constexpr LockMode kShare = 5;
inline constexpr LockMode kShareRowExclusive = 6;
inline constexpr LockMode kExclusive = 7;

constexpr std::int32_t modes(std::initializer_list<LockMode> list) {
    ModeMask mask = 0;
    for (const LockMode mode : list)
        mask |= mode_bit(mode);
    return static_cast<std::int32_t>(mask);
}

/// The table in "Conflicting Lock Modes" of PostgreSQL's documentation.
inline constexpr std::array<std::int32_t, kMaxLockMode> kConflicts = {
    0,
    modes({8}),
    modes({7, 8}),
    modes({5, 6, 7, 8}),
    modes({4, 5, 6, 7, 8}),
    modes({3, 4, 6, 7, 8}),
    modes({3, 4, 5, 6, 7, 8}),
    modes({2, 3, 4, 5, 6, 7, 8}),
    modes({1, 2, 3, 4, 5, 6, 7, 8}),
};

/// Collects a lock table lock by lock.
class TableBuilder {
  public:
    SessionIndex session(std::int32_t pid) {
        sessions_.push_back({pid});
        return static_cast<SessionIndex>(sessions_.size() - 1);
    }
    /// count sessions with pids from 1000.
    void add_sessions(std::uint32_t count) {
        for (std::uint32_t i = 0; i < count; ++i)
            session(static_cast<std::int32_t>(1000 + i));
    }
    void lock(const std::vector<Holder>& holders, const std::vector<Waiter>& waiters,
              const std::int32_t* conflicts = kConflicts.data()) {
        locks_.push_back({static_cast<std::uint32_t>(holders_.size()),
                          static_cast<std::uint32_t>(holders.size()),
                          static_cast<std::uint32_t>(waiters_.size()),
                          static_cast<std::uint32_t>(waiters.size()), conflicts});
        holders_.insert(holders_.end(), holders.begin(), holders.end());
        waiters_.insert(waiters_.end(), waiters.begin(), waiters.end());
    }
    void direct(SessionIndex waiter, SessionIndex blocker, LockMode held,
                WaitKind kind = WaitKind::data, std::uint32_t wait = 0,
                Timestamp since = kUnknownTime) {
        direct_waits_.push_back({waiter, blocker, held, kind, wait, since});
    }
    LockTable table() const { return {sessions_, locks_, holders_, waiters_, direct_waits_}; }
    std::vector<Lock>& locks() { return locks_; }

  private:
    std::vector<Session> sessions_;
    std::vector<Lock> locks_;
    std::vector<Holder> holders_;
    std::vector<Waiter> waiters_;
    std::vector<DirectWait> direct_waits_;
};

/// A graph edge by edge. What it returns lives as long as the builder and its sessions.
class GraphMaker {
  public:
    SessionIndex session(std::int32_t pid, Timestamp xact_start = kUnknownTime) {
        sessions_.push_back({pid});
        xact_starts_.push_back(xact_start);
        return static_cast<SessionIndex>(sessions_.size() - 1);
    }
    void edge(SessionIndex waiter, SessionIndex blocker, bool holds = true,
              LockMode mode = kAccessExclusive) {
        edges_[{waiter, blocker}] = {blocker, holds, mode};
    }
    /// One for each session.
    const std::vector<Timestamp>& xact_starts() const { return xact_starts_; }
    LockGraph graph() {
        flat_.clear();
        first_edge_.assign(1, 0);
        auto next = edges_.begin();
        for (SessionIndex s = 0; s < sessions_.size(); ++s) {
            for (; next != edges_.end() && next->first.first == s; ++next)
                flat_.push_back(next->second);
            first_edge_.push_back(static_cast<std::uint32_t>(flat_.size()));
        }
        return {sessions_, flat_, first_edge_};
    }

  private:
    std::vector<Session> sessions_;
    std::vector<Timestamp> xact_starts_;
    std::map<std::pair<SessionIndex, SessionIndex>, Edge> edges_;
    std::vector<Edge> flat_;
    std::vector<std::uint32_t> first_edge_;
};

} // namespace lockguard::core
