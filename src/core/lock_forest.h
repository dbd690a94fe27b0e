// From the wait-for graph to the rows of the lock tree, in the order of the drawing.
#pragma once

#include "core/lock_graph.h"

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <string_view>

namespace lockguard::core {

/// One row of the drawing.
struct ForestRow {
    SessionIndex session;
    std::uint32_t depth;   // 0 for a root
    SessionIndex root;     // the session at the top of this tree
    const Edge* parent;    // the edge to the row above it in the tree; null for a root
    std::uint32_t blocks;  // sessions that wait on this one, directly or through others
    bool deadlock;         // it is on a cycle
    std::string_view tree; // the pid at its place, with box-drawing branches (UTF-8)
};

/// Places every session of the graph that waits or blocks, each once:
/// - A session that waits for nobody is a root.
/// - A waiter hangs under the blocker that frees it last: the deepest one; then the one with the
///   oldest transaction; then the lowest pid. (Two prepared transactions, both pid 0: the lower
///   index.) Depth is the longest way from a root.
/// - A cycle has no such root. It is entered at its member that is also blocked from outside the
///   cycle, else at the one with the oldest transaction, then the lowest pid (the same among
///   several that are blocked from outside). From there it is walked depth first, in the same
///   order; edges that lead back on that walk are not drawn, but count for `blocks` and `deadlock`.
/// - Depth first; siblings, and trees, with the most rows below them first, then the oldest
///   transaction, then the lowest pid.
///
/// core/tree_drawing has how they are drawn. A prepared transaction is drawn as "0".
///
/// The time is proportional to sessions plus edges where every waiter has one blocker, else to
/// sessions times edges / 512 at worst (for `blocks`); the memory to sessions plus edges always.
///
/// \param graph   as build_lock_graph makes it (an edge of a session to itself is ignored); its
///                edges must outlive the result
/// \param xact_starts  since when each of graph.sessions is in its transaction; kUnknownTime, which
///                     is the youngest, where that can't be known, and for those beyond its end
/// \param memory  where the result and the work space are allocated
/// \throws std::bad_alloc
std::span<const ForestRow> grow_lock_forest(const LockGraph& graph,
                                            std::span<const Timestamp> xact_starts,
                                            std::pmr::memory_resource& memory);

} // namespace lockguard::core
