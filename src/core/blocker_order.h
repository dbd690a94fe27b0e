// In which order the sessions of a graph are walked: by seniority, and from blockers to those they
// block, with cycles cut open.
#pragma once

#include "core/lock_graph.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <span>
#include <vector>

namespace lockguard::core {

using Indices = std::pmr::vector<std::uint32_t>;

inline constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

/// The sessions that wait or block, the oldest transaction first, then the lowest pid, then the
/// lowest index.
struct SeniorityOrder {
    Indices sessions;
    Indices rank; // of each session of the graph: its place in `sessions`, or kNone

    /// \param xact_starts  as in grow_lock_forest()
    /// \throws std::bad_alloc
    SeniorityOrder(const LockGraph& graph, std::span<const Timestamp> xact_starts,
                   std::pmr::memory_resource& memory);
};

/// The sessions that take part, blockers before those they block. Members of a cycle, or of several
/// that hang together (a strongly connected component of the graph), stand side by side and have
/// the same component number; there the order is the one of a depth-first walk from the member at
/// which the cycle is entered, and an edge to a later session leads back.
///
/// Components are found by Tarjan's algorithm along the edges, which completes a component after
/// all that block it.
class BlockerOrder {
  public:
    BlockerOrder(const LockGraph& graph, const SeniorityOrder& seniority,
                 std::pmr::memory_resource& memory);

    Indices sessions;
    Indices position;        // of each session of the graph, in `sessions`
    Indices component;       // of each session of the graph
    Indices component_sizes; // sessions in each; above 1: a deadlock

    bool on_cycle(SessionIndex session) const { return component_sizes[component[session]] > 1; }

    /// Does this edge count for the drawing, or does it lead back into a cycle?
    bool leads_down(SessionIndex waiter, const Edge& edge) const {
        return position[edge.blocker] < position[waiter];
    }

  private:
    /// A session on the way from the start of a depth-first walk, and where to go on from it.
    struct Step {
        std::uint32_t node;
        std::uint32_t next; // index of the next neighbour to look at
    };

    void find_components(SessionIndex start);

    void open_session(SessionIndex session);

    /// Appends the component that was entered at `entry`: the open sessions from there on.
    void close_component(SessionIndex entry);

    /// Appends the members of a cycle in the order of a depth-first walk from its entrance: reverse
    /// postorder, in which exactly the edges that lead back run from late to early.
    void append_cycle(std::span<SessionIndex> members);

    void walk_to(std::span<const SessionIndex> members, std::uint32_t member);

    /// Fills first_waiter_ and waiters_: for each member the members that it blocks, both by their
    /// number in `members`, ascending.
    void turn_round(std::span<const SessionIndex> members);

    const LockGraph& graph_;
    const Indices& rank_;
    std::pmr::vector<Step> steps_;
    Indices open_;     // found, but their component is not complete
    Indices found_at_; // of each session: its number in the order of finding, or kNone
    Indices lowest_;   // of each session: the lowest found_at_ of an open session it leads to
    std::uint32_t found_count_ = 0;
    Indices first_waiter_;
    Indices waiters_;
    Indices finished_;
};

} // namespace lockguard::core
