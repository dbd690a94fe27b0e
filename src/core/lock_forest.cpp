// From the graph to the rows, in steps that each take one pass over the sessions or edges:
//
//   1. SeniorityOrder    who takes part, by oldest transaction, then lowest pid
//   2. BlockerOrder      an order in which blockers come before those they block, cycles cut open
//   3. hang_rows         everybody's parent, depth, root and the rows below it, in that order
//   4. count_blocked     the size of the set of waiters behind each
//   5. place_rows, draw  the order of the rows, and the drawing
//
// Nothing here is recursive: chains may be as long as max_connections.
#include "core/lock_forest.h"

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

using Indices = std::pmr::vector<std::uint32_t>;

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

/// The sessions that wait or block, the oldest transaction first, then the lowest pid, then the
/// lowest index.
struct SeniorityOrder {
    Indices sessions;
    Indices rank; // of each session of the graph: its place in `sessions`, or kNone

    SeniorityOrder(const LockGraph& graph, std::span<const Timestamp> xact_starts,
                   std::pmr::memory_resource& memory)
        : sessions(&memory), rank(graph.sessions.size(), kNone, &memory) {
        for (SessionIndex s = 0; s < graph.sessions.size(); ++s) {
            for (const Edge& edge : graph.blockers_of(s)) {
                if (edge.blocker != s)
                    rank[s] = rank[edge.blocker] = 0;
            }
        }
        std::size_t count = 0;
        for (const std::uint32_t mark : rank)
            count += mark != kNone ? 1 : 0;
        sessions.reserve(count);
        for (SessionIndex s = 0; s < graph.sessions.size(); ++s) {
            if (rank[s] != kNone)
                sessions.push_back(s);
        }
        const auto seniority = [&](SessionIndex s) {
            const Timestamp since = s < xact_starts.size() ? xact_starts[s] : kUnknownTime;
            return std::tuple(since, graph.sessions[s].pid, s);
        };
        std::sort(sessions.begin(), sessions.end(),
                  [&](SessionIndex a, SessionIndex b) { return seniority(a) < seniority(b); });
        for (std::uint32_t i = 0; i < sessions.size(); ++i)
            rank[sessions[i]] = i;
    }
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
                 std::pmr::memory_resource& memory)
        : sessions(&memory), position(graph.sessions.size(), kNone, &memory),
          component(graph.sessions.size(), kNone, &memory), component_sizes(&memory), graph_(graph),
          rank_(seniority.rank), steps_(&memory), open_(&memory),
          found_at_(graph.sessions.size(), kNone, &memory),
          lowest_(graph.sessions.size(), kNone, &memory), first_waiter_(&memory), waiters_(&memory),
          finished_(&memory) {
        sessions.reserve(seniority.sessions.size());
        for (const SessionIndex session : seniority.sessions) {
            if (found_at_[session] == kNone)
                find_components(session);
        }
        for (std::uint32_t i = 0; i < sessions.size(); ++i)
            position[sessions[i]] = i;
    }

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

    void find_components(SessionIndex start) {
        open_session(start);
        while (!steps_.empty()) {
            Step& step = steps_.back();
            const SessionIndex session = step.node;
            if (step.next < graph_.first_edge[session + 1]) {
                const SessionIndex blocker = graph_.edges[step.next++].blocker;
                if (found_at_[blocker] == kNone)
                    open_session(blocker); // invalidates step
                else if (component[blocker] == kNone)
                    lowest_[session] = std::min(lowest_[session], found_at_[blocker]);
                continue;
            }
            steps_.pop_back();
            if (!steps_.empty()) {
                const SessionIndex before = steps_.back().node;
                lowest_[before] = std::min(lowest_[before], lowest_[session]);
            }
            if (lowest_[session] == found_at_[session])
                close_component(session);
        }
    }

    void open_session(SessionIndex session) {
        found_at_[session] = lowest_[session] = found_count_++;
        open_.push_back(session);
        steps_.push_back({session, graph_.first_edge[session]});
    }

    /// Appends the component that was entered at `entry`: the open sessions from there on.
    void close_component(SessionIndex entry) {
        std::size_t first = open_.size();
        do {
            --first;
            component[open_[first]] = static_cast<std::uint32_t>(component_sizes.size());
        } while (open_[first] != entry);

        const std::span<SessionIndex> members(open_.data() + first, open_.size() - first);
        component_sizes.push_back(static_cast<std::uint32_t>(members.size()));
        if (members.size() == 1)
            sessions.push_back(entry);
        else
            append_cycle(members);
        open_.resize(first);
    }

    /// Appends the members of a cycle in the order of a depth-first walk from its entrance: reverse
    /// postorder, in which exactly the edges that lead back run from late to early.
    void append_cycle(std::span<SessionIndex> members) {
        std::sort(members.begin(), members.end(),
                  [&](SessionIndex a, SessionIndex b) { return rank_[a] < rank_[b]; });
        const auto blocked_from_outside =
            std::find_if(members.begin(), members.end(), [&](SessionIndex member) {
                return std::ranges::any_of(graph_.blockers_of(member), [&](const Edge& edge) {
                    return component[edge.blocker] != component[member];
                });
            });
        const auto entrance = static_cast<std::uint32_t>(
            blocked_from_outside == members.end() ? 0 : blocked_from_outside - members.begin());
        turn_round(members);

        // found_at_ has done its duty for members; it now says who has been walked to. Members are
        // known by their number in `members` here.
        for (const SessionIndex member : members)
            found_at_[member] = kNone;
        walk_to(members, entrance);
        finished_.clear();
        const std::size_t outer_steps = steps_.size() - 1;
        while (steps_.size() > outer_steps) {
            Step& step = steps_.back();
            if (step.next < first_waiter_[step.node + 1]) {
                const std::uint32_t waiter = waiters_[step.next++];
                if (found_at_[members[waiter]] == kNone)
                    walk_to(members, waiter); // invalidates step
                continue;
            }
            finished_.push_back(members[step.node]);
            steps_.pop_back();
        }
        sessions.insert(sessions.end(), finished_.rbegin(), finished_.rend());
    }

    void walk_to(std::span<const SessionIndex> members, std::uint32_t member) {
        found_at_[members[member]] = 0;
        steps_.push_back({member, first_waiter_[member]});
    }

    /// Fills first_waiter_ and waiters_: for each member the members that it blocks, both by their
    /// number in `members`, ascending.
    void turn_round(std::span<const SessionIndex> members) {
        const std::uint32_t inside = component[members[0]];
        for (std::uint32_t i = 0; i < members.size(); ++i)
            position[members[i]] = i; // the constructor sets the real one later
        first_waiter_.assign(members.size() + 1, 0);
        std::size_t edge_count = 0;
        for (const SessionIndex waiter : members) {
            for (const Edge& edge : graph_.blockers_of(waiter)) {
                if (component[edge.blocker] == inside) {
                    ++first_waiter_[position[edge.blocker] + 1];
                    ++edge_count;
                }
            }
        }
        for (std::size_t i = 1; i < first_waiter_.size(); ++i)
            first_waiter_[i] += first_waiter_[i - 1];
        waiters_.resize(edge_count);
        for (std::uint32_t i = 0; i < members.size(); ++i) {
            for (const Edge& edge : graph_.blockers_of(members[i])) {
                if (component[edge.blocker] == inside)
                    waiters_[first_waiter_[position[edge.blocker]]++] = i;
            }
        }
        // Every entry has moved to the start of the next list: move them back.
        for (std::size_t i = first_waiter_.size() - 1; i > 0; --i)
            first_waiter_[i] = first_waiter_[i - 1];
        first_waiter_[0] = 0;
    }

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
