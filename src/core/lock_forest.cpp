// From the graph to the rows, in steps that each take one pass over the sessions or edges:
//
//   1. SeniorityOrder    who takes part, by oldest transaction, then lowest pid
//   2. BlockerOrder      an order in which blockers come before those they block, cycles cut open
//   3. hang_rows         everybody's parent, depth, root and the rows below it, in that order
//   4. count_blocked     the size of the set of waiters behind each
//   5. place_rows, draw  the order of the rows, and the drawing
//
// 1 and 2 are core/blocker_order. Nothing here is recursive: chains may be as long as
// max_connections.
#include "core/lock_forest.h"

#include "core/blocker_order.h"
#include "core/kept_array.h"
#include "core/tree_drawing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <limits>
#include <tuple>
#include <vector>

namespace lockguard::core {
namespace {

/// A session's place in the drawing. One for each session of the graph; those that take no part
/// keep the initial values.
struct Hanging {
    const Edge* parent = nullptr;
    std::uint32_t depth = 0;
    SessionIndex root = kNone;
    std::uint32_t rows = 1; // of the tree from here down
    std::uint32_t row = 0;
};
using Hangings = std::pmr::vector<Hanging>;

/// Hangs everybody under the blocker that frees it last.
Hangings hang_rows(const LockGraph& graph, const SeniorityOrder& seniority,
                   const BlockerOrder& order, std::pmr::memory_resource& memory) {
    Hangings hangings(graph.sessions.size(), &memory);
    for (const SessionIndex session : order.sessions) {
        Hanging& hanging = hangings[session];
        for (const Edge& edge : graph.blockers_of(session)) {
            if (!order.leads_down(session, edge))
                continue;
            const std::uint32_t depth = hangings[edge.blocker].depth;
            if (hanging.parent == nullptr || depth + 1 > hanging.depth ||
                (depth + 1 == hanging.depth &&
                 seniority.rank[edge.blocker] < seniority.rank[hanging.parent->blocker])) {
                hanging.parent = &edge;
                hanging.depth = depth + 1;
            }
        }
        hanging.root = hanging.parent != nullptr ? hangings[hanging.parent->blocker].root : session;
    }
    for (std::size_t i = order.sessions.size(); i-- > 0;) {
        const Hanging& hanging = hangings[order.sessions[i]];
        if (hanging.parent != nullptr)
            hangings[hanging.parent->blocker].rows += hanging.rows;
    }
    return hangings;
}

/// A set of up to kSize sessions.
struct SessionSet {
    static constexpr std::size_t kSize = 512;
    std::array<std::uint64_t, kSize / 64> words;

    void insert(std::size_t i) { words[i / 64] |= std::uint64_t{1} << (i % 64); }

    void insert_all(const SessionSet& other) {
        for (std::size_t i = 0; i < words.size(); ++i)
            words[i] |= other.words[i];
    }

    std::uint32_t size() const {
        std::uint32_t sum = 0;
        for (const std::uint64_t word : words) {
            // Most are empty, and the processor's own instruction is not to be counted on.
            if (word != 0)
                sum += static_cast<std::uint32_t>(std::popcount(word));
        }
        return sum;
    }
};

/// For each session of the graph: how many others wait on it, directly or through others.
Indices count_blocked(const LockGraph& graph, const BlockerOrder& order, const Hangings& hangings,
                      std::pmr::memory_resource& memory) {
    Indices blocked(graph.sessions.size(), 0, &memory);
    const Indices& sessions = order.sessions;

    const bool forest = std::ranges::all_of(sessions, [&](SessionIndex session) {
        return graph.blockers_of(session).size() <= 1 && !order.on_cycle(session);
    });
    if (forest) {
        for (const SessionIndex session : sessions)
            blocked[session] = hangings[session].rows - 1;
        return blocked;
    }

    // One pass for each slice of kSize sessions: everybody's set of the waiters in that slice, from
    // the last waiter up. Those after the slice can't lead to it. Members of a component have the
    // same set, so there is one for each component.
    std::pmr::vector<SessionSet> sets(order.component_sizes.size(), &memory);
    Indices reached(order.component_sizes.size(), 0, &memory); // waiters and the members themselves
    for (std::size_t first = 0; first < sessions.size(); first += SessionSet::kSize) {
        const std::size_t end = std::min(first + SessionSet::kSize, sessions.size());
        const std::size_t last_component = order.component[sessions[end - 1]];
        std::fill_n(sets.begin(), last_component + 1, SessionSet{});
        for (std::size_t i = first; i < end; ++i)
            sets[order.component[sessions[i]]].insert(i - first);

        // The slice may end within a component: begin at the component's end.
        std::size_t i = end;
        while (i < sessions.size() && order.component[sessions[i]] == last_component)
            ++i;
        while (i > 0) {
            const std::uint32_t component = order.component[sessions[i - 1]];
            const std::size_t members = order.component_sizes[component];
            const std::uint32_t reached_here = sets[component].size();
            i -= members;
            if (reached_here == 0)
                continue;
            reached[component] += reached_here;
            for (std::size_t member = i; member < i + members; ++member) {
                for (const Edge& edge : graph.blockers_of(sessions[member])) {
                    const std::uint32_t target = order.component[edge.blocker];
                    if (target != component)
                        sets[target].insert_all(sets[component]);
                }
            }
        }
    }
    for (const SessionIndex session : sessions)
        blocked[session] = reached[order.component[session]] - 1;
    return blocked;
}

/// Gives everybody its row, and returns who is in which row.
Indices place_rows(const SeniorityOrder& seniority, Hangings& hangings,
                   std::pmr::memory_resource& memory) {
    // The order of siblings, for all sessions at once: the most rows first, then the eldest. A
    // parent has more rows than its children, so it comes before them and its row is known.
    std::pmr::vector<std::uint64_t> keys(&memory);
    keys.reserve(seniority.sessions.size());
    for (std::uint32_t rank = 0; rank < seniority.sessions.size(); ++rank) {
        const std::uint32_t rows = hangings[seniority.sessions[rank]].rows;
        keys.push_back(std::uint64_t{~rows} << 32 | rank);
    }
    std::sort(keys.begin(), keys.end());

    Indices rows(seniority.sessions.size(), &memory);
    Indices next_row(hangings.size(), 0, &memory); // below each session
    std::uint32_t next_tree = 0;
    for (const std::uint64_t key : keys) {
        const SessionIndex session = seniority.sessions[static_cast<std::uint32_t>(key)];
        Hanging& hanging = hangings[session];
        std::uint32_t& next =
            hanging.parent != nullptr ? next_row[hanging.parent->blocker] : next_tree;
        hanging.row = next;
        next += hanging.rows;
        next_row[session] = hanging.row + 1;
        rows[hanging.row] = session;
    }
    return rows;
}

} // namespace

std::span<const ForestRow> grow_lock_forest(const LockGraph& graph,
                                            std::span<const Timestamp> xact_starts,
                                            std::pmr::memory_resource& memory) {
    const SeniorityOrder seniority(graph, xact_starts, memory);
    const BlockerOrder order(graph, seniority, memory);
    Hangings hangings = hang_rows(graph, seniority, order, memory);
    const Indices blocked = count_blocked(graph, order, hangings, memory);
    const Indices sessions = place_rows(seniority, hangings, memory);

    KeptArray<ForestRow> rows(sessions.size(), memory);
    std::uint32_t deepest = 0;
    std::size_t text_bytes = 0;
    for (std::size_t i = 0; i < sessions.size(); ++i) {
        const Hanging& hanging = hangings[sessions[i]];
        rows[i] = {.session = sessions[i],
                   .depth = hanging.depth,
                   .root = hanging.root,
                   .parent = hanging.parent,
                   .blocks = blocked[sessions[i]],
                   .deadlock = order.on_cycle(sessions[i]),
                   .tree = {}};
        deepest = std::max(deepest, hanging.depth);
        text_bytes += Pencil::max_bytes(hanging.depth);
    }

    Pencil pencil(deepest, memory);
    KeptArray<char> text(text_bytes, memory);
    char* next_text = text.data();
    for (std::size_t i = 0; i < sessions.size(); ++i) {
        ForestRow& row = rows[i];
        const Hanging& hanging = hangings[row.session];
        bool more_siblings = false;
        if (row.parent != nullptr) {
            const Hanging& parent = hangings[row.parent->blocker];
            more_siblings = hanging.row + hanging.rows < parent.row + parent.rows;
        }
        row.tree =
            pencil.draw(graph.sessions[row.session].pid, row.depth, more_siblings, next_text);
        next_text += row.tree.size();
    }
    text.keep();
    return rows.keep();
}

} // namespace lockguard::core
