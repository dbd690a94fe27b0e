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
/// Indentation deeper than kDrawnDepth levels is drawn as a count, so that a chain of thousands
/// neither fills the screen nor takes quadratic memory: every kDrawnDepth levels the drawing starts
/// again at the left, behind the number of levels left out. With 20, the row at depth 20 is
/// indented 19 levels and has its branch, the one at depth 21 reads "…20 └─ 4711", the one at depth
/// 22 "…20    └─ 4712". A prepared transaction is drawn as "0".
///
/// The time is proportional to sessions plus edges where every waiter has one blocker, else to
/// sessions times edges / 512 at worst (for `blocks`); the memory to sessions plus edges always.
///
/// \param graph   as build_lock_graph makes it (an edge of a session to itself is ignored); its
///                edges must outlive the result
/// \param memory  where the result and the work space are allocated
/// \throws std::bad_alloc
std::span<const ForestRow> grow_lock_forest(const LockGraph& graph,
                                            std::pmr::memory_resource& memory);

inline constexpr std::uint32_t kDrawnDepth = 20;

/// Redraws in ASCII, in place, for databases whose encoding lacks the box-drawing characters. Never
/// longer than before; returns the new length. Other text in it stays as it is.
std::size_t redraw_in_ascii(std::span<char> drawing) noexcept;

} // namespace lockguard::core
