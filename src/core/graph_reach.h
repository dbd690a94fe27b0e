// Walks over the wait-for graph from blockers to those who wait for them.
#pragma once

#include "core/lock_graph.h"

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

namespace lockguard::core {

/// For each session those that it blocks: the edges the other way round.
class Waiters {
  public:
    Waiters(const LockGraph& graph, std::pmr::memory_resource& memory)
        : first_(graph.sessions.size() + 2, 0, &memory), waiters_(graph.edges.size(), 0, &memory) {
        const auto count = static_cast<SessionIndex>(graph.sessions.size());
        for (const Edge& edge : graph.edges)
            ++first_[edge.blocker + 2];
        for (std::size_t i = 1; i < first_.size(); ++i)
            first_[i] += first_[i - 1];
        for (SessionIndex s = 0; s < count; ++s) {
            for (const Edge& edge : graph.blockers_of(s))
                waiters_[first_[edge.blocker + 1]++] = s;
        }
    }

    std::span<const std::uint32_t> of(SessionIndex session) const {
        return std::span(waiters_).subspan(first_[session], first_[session + 1] - first_[session]);
    }

  private:
    std::pmr::vector<std::uint32_t> first_;
    std::pmr::vector<std::uint32_t> waiters_;
};

/// Visits everybody who can be reached from one session, each once, in no order.
class Reach {
  public:
    Reach(std::size_t sessions, std::pmr::memory_resource& memory)
        : met_(sessions, 0, &memory), found_(&memory) {}

    /// \param next  next(session, visit) calls visit(neighbour) for each
    /// \return  those found, without `from` itself; until the next call
    template <class Next>
    std::span<const std::uint32_t> from(SessionIndex from, Next next) {
        ++round_;
        found_.clear();
        met_[from] = round_;
        const auto visit = [this](SessionIndex session) {
            if (met_[session] != round_) {
                met_[session] = round_;
                found_.push_back(session);
            }
        };
        next(from, visit);
        for (std::size_t i = 0; i < found_.size(); ++i)
            next(found_[i], visit);
        return found_;
    }

    bool met(SessionIndex session) const { return met_[session] == round_; }

  private:
    std::pmr::vector<std::uint32_t> met_; // the round in which each was met
    std::uint32_t round_ = 0;
    std::pmr::vector<std::uint32_t> found_;
};

/// The graph without what is not behind `root`: where the others in the way of its waiters are left
/// out, the tree has it at the top.
LockGraph graph_behind(const LockGraph& graph, SessionIndex root,
                       std::pmr::memory_resource& memory);

} // namespace lockguard::core
