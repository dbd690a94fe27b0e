// A picture of who waits for whom, of bounded size: what lock_graph() draws and what is kept of an
// incident. Plain data without words; core/words/pictures draws it.
#pragma once

#include "core/lock_forest.h"
#include "core/lock_graph.h"

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// Index of a node in its picture.
using NodeIndex = std::uint32_t;
inline constexpr NodeIndex kNoNode = UINT32_MAX;

/// A session of the picture, or several that are folded into one.
struct PictureNode {
    SessionIndex session; // in the graph; of a fold: one of those in it
    NodeIndex above;      // the node that it hangs under in the lock tree; kNoNode for a root
    LockMode mode;        // of that edge, as in Edge
    bool holds;           // as in Edge
    bool deadlock;        // it is on a cycle
    bool mixed;           // a fold of sessions that do not all want the same
    std::uint32_t folded; // 0: one session; else a fold of so many
};

/// Another edge than those of the tree: "waiter is blocked by blocker".
struct PictureEdge {
    NodeIndex waiter;
    NodeIndex blocker;
    LockMode mode;
    bool holds;
};

/// Nodes in the order of the lock tree: each after the one that it hangs under.
struct WaitPicture {
    std::span<const PictureNode> nodes;
    std::span<const PictureEdge> edges;
};

struct PictureLimits {
    std::size_t nodes; // at least 2
    std::size_t edges; // besides those of the tree
};

/// What a picture has room for: more sessions are folded.
inline constexpr PictureLimits kPictureLimits = {200, 200};

/// A waiter has at most so many edges besides that of the tree.
inline constexpr std::size_t kFurtherEdges = 8;

/// Composes the picture of all trees.
///
/// Where there are more sessions than nodes, sessions that nobody waits for are folded: those that
/// hang under the same one and want the same (`wants`), but the first few of them, which are as
/// many as there is room for. What has no room after that, in the order of the tree, is one fold at
/// the end, `mixed`.
///
/// Besides the edges of the tree there are those to everybody else who holds what a session waits
/// for, and those on a cycle, as far as limits and kFurtherEdges allow.
///
/// \param rows   as grow_lock_forest() makes them
/// \param wants  for each of graph.sessions a number: the same for those that want the same
/// \throws std::bad_alloc
WaitPicture compose_picture(const LockGraph& graph, std::span<const ForestRow> rows,
                            std::span<const std::uint32_t> wants, PictureLimits limits,
                            std::pmr::memory_resource& memory);

} // namespace lockguard::core
