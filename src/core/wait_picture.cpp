#include "core/wait_picture.h"

#include "core/kept_array.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace lockguard::core {
namespace {

using Indices = std::pmr::vector<std::uint32_t>;

/// The rows of the picture, and what becomes of each of them.
class Composition {
  public:
    Composition(const LockGraph& graph, std::span<const ForestRow> rows,
                std::span<const std::uint32_t> wants, PictureLimits limits,
                std::pmr::memory_resource& memory)
        : graph_(graph), rows_(rows), wants_(wants), limits_(limits), memory_(memory),
          row_of_(graph.sessions.size(), kNoNode, &memory),
          node_of_(graph.sessions.size(), kNoNode, &memory), nodes_(&memory), edges_(&memory) {
        for (std::uint32_t i = 0; i < rows.size(); ++i)
            row_of_[rows[i].session] = i;
    }

    WaitPicture compose() {
        if (rows_.size() <= limits_.nodes) {
            nodes_.reserve(rows_.size());
            for (const ForestRow& row : rows_)
                add_node(row);
        } else {
            add_folded();
        }
        add_edges();
        KeptArray<PictureNode> nodes(nodes_.size(), memory_);
        KeptArray<PictureEdge> edges(edges_.size(), memory_);
        std::copy(nodes_.begin(), nodes_.end(), nodes.data());
        std::copy(edges_.begin(), edges_.end(), edges.data());
        return {nodes.keep(), edges.keep()};
    }

  private:
    /// The node that the row hangs under. There is one: a row that has others below it comes before
    /// them, and is no part of a fold.
    NodeIndex above(const ForestRow& row) const {
        return row.parent == nullptr ? kNoNode : node_of_[row.parent->blocker];
    }

    PictureNode node_for(const ForestRow& row) const {
        PictureNode node = {};
        node.session = row.session;
        node.above = above(row);
        node.mode = row.parent == nullptr ? kNoLockMode : row.parent->mode;
        node.holds = row.parent != nullptr && row.parent->holds;
        node.deadlock = row.deadlock;
        return node;
    }

    void add_node(const ForestRow& row) {
        node_of_[row.session] = static_cast<NodeIndex>(nodes_.size());
        nodes_.push_back(node_for(row));
    }

    /// Sorts the rows that nobody waits for into groups that can be folded: group_[row] is the
    /// group's number, kNoNode for a row that is in none; sizes_[group] its size.
    void find_groups() {
        group_.assign(rows_.size(), kNoNode);
        Indices leaves(&memory_);
        for (std::uint32_t i = 0; i < rows_.size(); ++i) {
            const bool leaf = i + 1 == rows_.size() || rows_[i + 1].depth <= rows_[i].depth;
            if (leaf && rows_[i].parent != nullptr && !rows_[i].deadlock)
                leaves.push_back(i);
        }
        const auto key = [this](std::uint32_t i) {
            return std::tuple(row_of_[rows_[i].parent->blocker], wants_[rows_[i].session]);
        };
        std::stable_sort(leaves.begin(), leaves.end(),
                         [&key](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
        for (std::size_t i = 0; i < leaves.size(); ++i) {
            if (i == 0 || key(leaves[i]) != key(leaves[i - 1]))
                sizes_.push_back(0);
            group_[leaves[i]] = static_cast<std::uint32_t>(sizes_.size() - 1);
            ++sizes_.back();
        }
    }

    /// How many nodes there are where each group shows its first `shown`. A fold of one would take
    /// the room of the session itself.
    std::size_t count_nodes(std::size_t shown) const {
        std::size_t count = rows_.size();
        for (const std::uint32_t size : sizes_) {
            if (size > shown + 1)
                count -= size - shown - 1;
        }
        return count;
    }

    void add_folded() {
        find_groups();
        std::size_t shown = limits_.nodes;
        while (shown > 0 && count_nodes(shown) > limits_.nodes)
            --shown;
        Indices met(sizes_.size(), 0, &memory_); // of each group
        const bool all_fit = count_nodes(shown) <= limits_.nodes;
        const std::size_t room = all_fit ? limits_.nodes : limits_.nodes - 1;
        std::uint32_t rest = 0;
        const ForestRow* first_left_out = nullptr;
        for (std::uint32_t i = 0; i < rows_.size(); ++i) {
            const std::uint32_t group = group_[i];
            const bool folds = group != kNoNode && sizes_[group] > shown + 1;
            if (folds && ++met[group] > shown) {
                // The first of the fold stands for it; at its end it says how many they are.
                if (met[group] > shown + 1)
                    continue;
            }
            if (nodes_.size() >= room) {
                rest += folds && met[group] > shown ? sizes_[group] - met[group] + 1 : 1;
                if (first_left_out == nullptr)
                    first_left_out = &rows_[i];
                continue;
            }
            add_node(rows_[i]);
            if (folds && met[group] > shown) {
                nodes_.back().folded = sizes_[group] - static_cast<std::uint32_t>(shown);
                node_of_[rows_[i].session] = kNoNode;
            }
        }
        if (first_left_out == nullptr)
            return;
        nodes_.push_back(node_for(*first_left_out));
        nodes_.back().folded = rest;
        nodes_.back().mixed = true;
    }

    void add_edges() {
        for (NodeIndex i = 0; i < nodes_.size(); ++i) {
            const PictureNode& node = nodes_[i];
            if (node.folded > 0)
                continue;
            std::size_t count = 0;
            for (const Edge& edge : graph_.blockers_of(node.session)) {
                const NodeIndex blocker = node_of_[edge.blocker];
                if (blocker == kNoNode || blocker == node.above || blocker == i)
                    continue;
                if (!edge.holds && !(node.deadlock && nodes_[blocker].deadlock))
                    continue;
                if (count++ == kFurtherEdges || edges_.size() == limits_.edges)
                    break;
                edges_.push_back({i, blocker, edge.mode, edge.holds});
            }
        }
    }

    const LockGraph& graph_;
    std::span<const ForestRow> rows_;
    std::span<const std::uint32_t> wants_;
    PictureLimits limits_;
    std::pmr::memory_resource& memory_;
    Indices row_of_;  // of each session, kNoNode for none
    Indices node_of_; // likewise; none for those in a fold
    std::pmr::vector<PictureNode> nodes_;
    std::pmr::vector<PictureEdge> edges_;
    Indices group_{&memory_};
    Indices sizes_{&memory_};
};

} // namespace

WaitPicture compose_picture(const LockGraph& graph, std::span<const ForestRow> rows,
                            std::span<const std::uint32_t> wants, PictureLimits limits,
                            std::pmr::memory_resource& memory) {
    return Composition(graph, rows, wants, limits, memory).compose();
}

} // namespace lockguard::core
