#include "core/lock_forest.h"
#include "core/tree_drawing.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace lockguard::core {
namespace {

/// A row, without pointers, so that rows can be compared and printed.
struct Row {
    SessionIndex session;
    std::uint32_t depth;
    SessionIndex root;
    int parent; // -1 for a root
    std::uint32_t blocks;
    bool deadlock;
    std::string tree;

    bool operator==(const Row&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Row& row) {
    return out << row.tree << " [session " << row.session << " depth " << row.depth << " root "
               << row.root << " parent " << row.parent << " blocks " << row.blocks
               << (row.deadlock ? " deadlock" : "") << "]\n";
}

std::vector<Row> grow(const LockGraph& graph, std::span<const Timestamp> xact_starts,
                      std::pmr::memory_resource& memory) {
    std::vector<Row> rows;
    for (const ForestRow& row : grow_lock_forest(graph, xact_starts, memory)) {
        if (row.parent != nullptr) {
            // The very edge of the graph, so that callers find its mode.
            const auto edges = graph.blockers_of(row.session);
            EXPECT_GE(row.parent, edges.data());
            EXPECT_LT(row.parent, edges.data() + edges.size());
        }
        rows.push_back({row.session, row.depth, row.root,
                        row.parent != nullptr ? static_cast<int>(row.parent->blocker) : -1,
                        row.blocks, row.deadlock, std::string(row.tree)});
    }
    return rows;
}

class LockForestTest : public testing::Test {
  protected:
    std::vector<Row> grow() {
        const std::size_t blocks_before = memory_.live_blocks();
        std::vector<Row> rows = core::grow(maker_.graph(), maker_.xact_starts(), memory_);
        // The rows and their texts are left, nothing of the work space.
        EXPECT_LE(memory_.live_blocks() - blocks_before, 2U);
        EXPECT_FALSE(memory_.misused());
        return rows;
    }

    std::vector<std::string> drawing() {
        std::vector<std::string> lines;
        for (const Row& row : grow())
            lines.push_back(row.tree);
        return lines;
    }

    GraphMaker maker_;
    TestMemory memory_;
};

using Rows = std::vector<Row>;
using Lines = std::vector<std::string>;

TEST_F(LockForestTest, NobodyWaits) {
    EXPECT_EQ(grow(), Rows{});
    maker_.session(1);
    maker_.session(2);
    EXPECT_EQ(grow(), Rows{});
}

TEST_F(LockForestTest, OneBlocksOne) {
    const auto bystander = maker_.session(1, 1);
    const auto waiter = maker_.session(4712, 10);
    const auto blocker = maker_.session(4711, 20);
    maker_.edge(waiter, blocker);
    EXPECT_EQ(grow(), Rows({{blocker, 0, blocker, -1, 1, false, "4711"},
                            {waiter, 1, blocker, static_cast<int>(blocker), 0, false, "└─ 4712"}}));
    for (const Row& row : grow())
        EXPECT_NE(row.session, bystander);
}

TEST_F(LockForestTest, ReaderAlterReaders) {
    const auto reader = maker_.session(10, 1);
    const auto alter = maker_.session(11, 2);
    const auto late1 = maker_.session(12, 3);
    const auto late2 = maker_.session(13, 4);
    maker_.edge(alter, reader);
    maker_.edge(late1, alter, false);
    maker_.edge(late2, alter, false);
    EXPECT_EQ(grow(), Rows({{reader, 0, reader, -1, 3, false, "10"},
                            {alter, 1, reader, 0, 2, false, "└─ 11"},
                            {late1, 2, reader, 1, 0, false, "   ├─ 12"},
                            {late2, 2, reader, 1, 0, false, "   └─ 13"}}));
}

TEST_F(LockForestTest, BranchesOfAllShapes) {
    const auto root = maker_.session(1, 1);
    const auto a = maker_.session(2, 2);
    const auto a1 = maker_.session(3, 3);
    const auto a1x = maker_.session(4, 4);
    const auto a2 = maker_.session(5, 5);
    const auto b = maker_.session(6, 6);
    const auto b1 = maker_.session(7, 7);
    maker_.edge(a, root);
    maker_.edge(a1, a);
    maker_.edge(a1x, a1);
    maker_.edge(a2, a);
    maker_.edge(b, root);
    maker_.edge(b1, b);
    EXPECT_EQ(drawing(),
              Lines({"1", "├─ 2", "│  ├─ 3", "│  │  └─ 4", "│  └─ 5", "└─ 6", "   └─ 7"}));
}

TEST_F(LockForestTest, AWaiterHangsUnderItsDeepestBlocker) {
    const auto root = maker_.session(1, 1);
    const auto middle = maker_.session(2, 9);
    const auto waiter = maker_.session(3, 3);
    maker_.edge(middle, root);
    maker_.edge(waiter, root);   // the older transaction,
    maker_.edge(waiter, middle); // but this one is freed last
    EXPECT_EQ(grow(), Rows({{root, 0, root, -1, 2, false, "1"},
                            {middle, 1, root, 0, 1, false, "└─ 2"},
                            {waiter, 2, root, 1, 0, false, "   └─ 3"}}));
}

TEST_F(LockForestTest, AmongEquallyDeepTheOldestTransaction) {
    const auto young = maker_.session(1, 200);
    const auto old = maker_.session(2, 100);
    const auto unknown = maker_.session(0, kUnknownTime);
    const auto waiter = maker_.session(3, 300);
    for (const auto blocker : {young, old, unknown})
        maker_.edge(waiter, blocker);
    EXPECT_EQ(grow(), Rows({{old, 0, old, -1, 1, false, "2"},
                            {waiter, 1, old, static_cast<int>(old), 0, false, "└─ 3"},
                            {young, 0, young, -1, 1, false, "1"},
                            {unknown, 0, unknown, -1, 1, false, "0"}}));
}

TEST_F(LockForestTest, AmongEquallyOldTheLowestPid) {
    const auto high = maker_.session(20, 100);
    const auto low = maker_.session(10, 100);
    const auto waiter = maker_.session(30, 300);
    maker_.edge(waiter, high);
    maker_.edge(waiter, low);
    EXPECT_EQ(grow()[1].parent, static_cast<int>(low));
    EXPECT_EQ(drawing(), Lines({"10", "└─ 30", "20"}));
}

TEST_F(LockForestTest, AmongPreparedTransactionsTheLowestIndex) {
    const auto waiter = maker_.session(30, 300);
    const auto first = maker_.session(0, 100);
    const auto second = maker_.session(0, 100);
    maker_.edge(waiter, second);
    maker_.edge(waiter, first);
    EXPECT_EQ(grow(), Rows({{first, 0, first, -1, 1, false, "0"},
                            {waiter, 1, first, static_cast<int>(first), 0, false, "└─ 30"},
                            {second, 0, second, -1, 1, false, "0"}}));
}

TEST_F(LockForestTest, TheBiggestTreeComesFirst) {
    const auto small = maker_.session(1, 1);
    const auto small_waiter = maker_.session(2, 2);
    const auto big = maker_.session(3, 3);
    maker_.edge(small_waiter, small);
    for (int pid = 10; pid < 12; ++pid)
        maker_.edge(maker_.session(pid, pid), big);
    EXPECT_EQ(drawing(), Lines({"3", "├─ 10", "└─ 11", "1", "└─ 2"}));
}

TEST_F(LockForestTest, SiblingsByRowsThenTransactionThenPid) {
    const auto root = maker_.session(1, 1);
    const auto leaf_old = maker_.session(9, 50);
    const auto leaf_young = maker_.session(2, 60);
    const auto leaf_tie = maker_.session(8, 50);
    const auto subtree = maker_.session(7, 70);
    const auto leaf_below = maker_.session(6, 80);
    for (const auto child : {leaf_young, leaf_old, leaf_tie, subtree})
        maker_.edge(child, root);
    maker_.edge(leaf_below, subtree);
    EXPECT_EQ(drawing(), Lines({"1", "├─ 7", "│  └─ 6", "├─ 8", "├─ 9", "└─ 2"}));
}

TEST_F(LockForestTest, RowsBelowDecideNotBlocks) {
    // Both block three sessions, but `second` has them all below itself.
    const auto first = maker_.session(1, 1);
    const auto second = maker_.session(2, 2);
    for (int pid = 10; pid < 12; ++pid) {
        const auto waiter = maker_.session(pid, pid);
        maker_.edge(waiter, first);
        const auto between = maker_.session(pid + 10, pid);
        maker_.edge(between, second);
        maker_.edge(waiter, between);
    }
    const auto rows = grow();
    ASSERT_EQ(rows.size(), 6U);
    EXPECT_EQ(rows[0].session, second);
    EXPECT_EQ(rows[0].blocks, 4U);
    EXPECT_EQ(rows[5].session, first);
    EXPECT_EQ(rows[5].blocks, 2U);
    EXPECT_EQ(rows[5].tree, "1");
}

TEST_F(LockForestTest, BlocksCountsEveryWaiterOnce) {
    // A diamond: the last one waits through both.
    const auto top = maker_.session(1, 1);
    const auto left = maker_.session(2, 2);
    const auto right = maker_.session(3, 3);
    const auto bottom = maker_.session(4, 4);
    maker_.edge(left, top);
    maker_.edge(right, top);
    maker_.edge(bottom, left);
    maker_.edge(bottom, right);
    EXPECT_EQ(grow(), Rows({{top, 0, top, -1, 3, false, "1"},
                            {left, 1, top, 0, 1, false, "├─ 2"},
                            {bottom, 2, top, 1, 0, false, "│  └─ 4"},
                            {right, 1, top, 0, 1, false, "└─ 3"}}));
}

TEST_F(LockForestTest, ADeadlockOfTwoIsEnteredAtTheOldestTransaction) {
    const auto young = maker_.session(1, 200);
    const auto old = maker_.session(2, 100);
    maker_.edge(young, old);
    maker_.edge(old, young);
    EXPECT_EQ(grow(), Rows({{old, 0, old, -1, 1, true, "2"},
                            {young, 1, old, static_cast<int>(old), 1, true, "└─ 1"}}));
}

TEST_F(LockForestTest, AmongEquallyOldADeadlockIsEnteredAtTheLowestPid) {
    const auto high = maker_.session(20, 100);
    const auto low = maker_.session(10, 100);
    maker_.edge(high, low);
    maker_.edge(low, high);
    EXPECT_EQ(drawing(), Lines({"10", "└─ 20"}));
}

TEST_F(LockForestTest, ADeadlockIsEnteredWhereItIsBlockedFromOutside) {
    const auto old = maker_.session(1, 1);
    const auto young = maker_.session(2, 2);
    const auto outside = maker_.session(3, 3);
    maker_.edge(old, young);
    maker_.edge(young, old);
    maker_.edge(young, outside);
    EXPECT_EQ(grow(), Rows({{outside, 0, outside, -1, 2, false, "3"},
                            {young, 1, outside, static_cast<int>(outside), 1, true, "└─ 2"},
                            {old, 2, outside, static_cast<int>(young), 1, true, "   └─ 1"}}));
}

TEST_F(LockForestTest, BlockedFromOutsideTwiceTheOldestTransactionIsTheEntrance) {
    const auto young = maker_.session(1, 30);
    const auto old = maker_.session(2, 20);
    const auto oldest = maker_.session(5, 10); // not blocked from outside
    const auto outside = maker_.session(3, 40);
    const auto other_outside = maker_.session(4, 50);
    maker_.edge(young, old);
    maker_.edge(old, oldest);
    maker_.edge(oldest, young);
    maker_.edge(young, outside);
    maker_.edge(old, other_outside);
    EXPECT_EQ(drawing(), Lines({"4", "└─ 2", "   └─ 1", "      └─ 5", "3"}));
}

TEST_F(LockForestTest, ARingWithFollowers) {
    const auto a = maker_.session(1, 1);
    const auto b = maker_.session(2, 2);
    const auto c = maker_.session(3, 3);
    const auto follower = maker_.session(4, 4);
    maker_.edge(b, a);
    maker_.edge(c, b);
    maker_.edge(a, c);
    maker_.edge(follower, b);
    EXPECT_EQ(grow(), Rows({{a, 0, a, -1, 3, true, "1"},
                            {b, 1, a, 0, 3, true, "└─ 2"},
                            {c, 2, a, 1, 3, true, "   ├─ 3"},
                            {follower, 2, a, 1, 0, false, "   └─ 4"}}));
}

TEST_F(LockForestTest, ACycleIsWalkedOldestTransactionFirst) {
    // All block each other. The walk goes 1, 2, 3: everybody under the one before.
    const auto third = maker_.session(3, 3);
    const auto first = maker_.session(1, 1);
    const auto second = maker_.session(2, 2);
    for (const auto waiter : {first, second, third}) {
        for (const auto blocker : {first, second, third}) {
            if (waiter != blocker)
                maker_.edge(waiter, blocker);
        }
    }
    EXPECT_EQ(drawing(), Lines({"1", "└─ 2", "   └─ 3"}));
}

TEST_F(LockForestTest, TwoDeadlocksAreTwoTrees) {
    for (int i = 0; i < 2; ++i) {
        const auto a = maker_.session(10 * i + 1, 10 * i + 1);
        const auto b = maker_.session(10 * i + 2, 10 * i + 2);
        maker_.edge(a, b);
        maker_.edge(b, a);
    }
    EXPECT_EQ(drawing(), Lines({"1", "└─ 2", "11", "└─ 12"}));
}

TEST_F(LockForestTest, AnEdgeToItselfIsIgnored) {
    const auto lonely = maker_.session(1, 1);
    maker_.edge(lonely, lonely);
    EXPECT_EQ(grow(), Rows{});
    const auto waiter = maker_.session(2, 2);
    maker_.edge(waiter, waiter);
    maker_.edge(waiter, lonely);
    EXPECT_EQ(grow(), Rows({{lonely, 0, lonely, -1, 1, false, "1"},
                            {waiter, 1, lonely, 0, 0, false, "└─ 2"}}));
}

TEST_F(LockForestTest, DeepIndentationIsCounted) {
    SessionIndex above = maker_.session(1000, 0);
    for (int i = 1; i <= 45; ++i) {
        const auto next = maker_.session(1000 + i, 2 * i);
        maker_.edge(next, above);
        // A younger leaf beside each, so that there are vertical lines.
        maker_.edge(maker_.session(2000 + i, 2 * i + 1), above);
        above = next;
    }
    std::vector<std::string> by_depth(46);
    std::vector<std::string> leaf_by_depth(46);
    for (const Row& row : grow())
        (row.tree.find(" 2") != std::string::npos ? leaf_by_depth : by_depth)[row.depth] = row.tree;

    const auto lines = [](int count) {
        std::string text;
        for (int i = 0; i < count; ++i)
            text += "│  ";
        return text;
    };
    EXPECT_EQ(by_depth[0], "1000");
    EXPECT_EQ(by_depth[1], "├─ 1001");
    EXPECT_EQ(by_depth[kDrawnDepth], lines(19) + "├─ 1020");
    EXPECT_EQ(leaf_by_depth[kDrawnDepth], lines(19) + "└─ 2020");
    EXPECT_EQ(by_depth[kDrawnDepth + 1], "…20 ├─ 1021");
    EXPECT_EQ(leaf_by_depth[kDrawnDepth + 1], "…20 └─ 2021");
    EXPECT_EQ(by_depth[kDrawnDepth + 2], "…20 │  ├─ 1022");
    EXPECT_EQ(by_depth[2 * kDrawnDepth], "…20 " + lines(19) + "├─ 1040");
    EXPECT_EQ(by_depth[2 * kDrawnDepth + 1], "…40 ├─ 1041");
}

TEST_F(LockForestTest, ExtremePids) {
    SessionIndex above = maker_.session(INT32_MIN, 0);
    for (int i = 1; i <= 60; ++i) {
        const auto next = maker_.session(INT32_MIN, i);
        maker_.edge(next, above);
        maker_.edge(maker_.session(INT32_MAX, 1000), above);
        above = next;
    }
    const auto rows = grow();
    ASSERT_EQ(rows.size(), 121U);
    EXPECT_EQ(rows[60].depth, 60U);
    EXPECT_TRUE(rows[60].tree.starts_with("…40 │  "));
    EXPECT_TRUE(rows[60].tree.ends_with("│  ├─ -2147483648")) << rows[60].tree;
}

/// The rules of lock_forest.h, word for word and without regard to speed.
class ForestByDefinition {
  public:
    ForestByDefinition(const LockGraph& graph, std::span<const Timestamp> xact_starts)
        : graph_(graph), xact_starts_(xact_starts), n_(graph.sessions.size()),
          edge_(n_, std::vector<bool>(n_)), reaches_(edge_), back_(edge_), waiters_(n_),
          depth_(n_, -1), parent_(n_, -1), children_(n_) {
        for (SessionIndex w = 0; w < n_; ++w) {
            for (const Edge& e : graph.blockers_of(w)) {
                edge_[e.blocker][w] = true;
                waiters_[e.blocker].push_back(w);
            }
        }
        for (SessionIndex s = 0; s < n_; ++s)
            mark_reached(s, s);
        find_back_edges();
        hang();
    }

    Rows rows() {
        std::vector<SessionIndex> roots;
        for (SessionIndex s = 0; s < n_; ++s) {
            if (takes_part(s) && parent_[s] < 0)
                roots.push_back(s);
        }
        sort_siblings(roots);
        for (const SessionIndex root : roots)
            draw(root, root, {}, false);
        return rows_;
    }

  private:
    bool takes_part(SessionIndex s) const {
        return !graph_.blockers_of(s).empty() || !waiters_[s].empty();
    }
    void mark_reached(SessionIndex from, SessionIndex at) {
        for (const SessionIndex w : waiters_[at]) {
            if (!reaches_[from][w]) {
                reaches_[from][w] = true;
                mark_reached(from, w);
            }
        }
    }
    bool same_cycle(SessionIndex a, SessionIndex b) const {
        return reaches_[a][b] && reaches_[b][a];
    }
    bool senior(SessionIndex a, SessionIndex b) const {
        const auto seniority = [this](SessionIndex s) {
            return std::tuple(xact_starts_[s], graph_.sessions[s].pid, s);
        };
        return seniority(a) < seniority(b);
    }
    void find_back_edges() {
        std::vector<bool> done(n_);
        for (SessionIndex s = 0; s < n_; ++s) {
            if (!reaches_[s][s] || done[s])
                continue;
            std::vector<SessionIndex> members;
            for (SessionIndex m = 0; m < n_; ++m) {
                if (same_cycle(s, m)) {
                    members.push_back(m);
                    done[m] = true;
                }
            }
            std::sort(members.begin(), members.end(), [&](auto a, auto b) { return senior(a, b); });
            SessionIndex entrance = members.front();
            for (const SessionIndex m : members) {
                bool outside = false;
                for (const Edge& e : graph_.blockers_of(m))
                    outside = outside || !same_cycle(e.blocker, m);
                if (outside) {
                    entrance = m;
                    break;
                }
            }
            std::vector<bool> visited(n_);
            std::vector<bool> on_way(n_);
            walk(entrance, members, visited, on_way);
        }
    }
    void walk(SessionIndex at, const std::vector<SessionIndex>& members, std::vector<bool>& visited,
              std::vector<bool>& on_way) {
        visited[at] = on_way[at] = true;
        for (const SessionIndex m : members) {
            if (!edge_[at][m])
                continue;
            if (on_way[m])
                back_[at][m] = true;
            else if (!visited[m])
                walk(m, members, visited, on_way);
        }
        on_way[at] = false;
    }
    int depth(SessionIndex s) {
        if (depth_[s] >= 0)
            return depth_[s];
        int deepest = -1;
        for (const Edge& e : graph_.blockers_of(s)) {
            if (!back_[e.blocker][s])
                deepest = std::max(deepest, depth(e.blocker));
        }
        return depth_[s] = deepest + 1;
    }
    void hang() {
        for (SessionIndex s = 0; s < n_; ++s) {
            int& best = parent_[s];
            for (const Edge& e : graph_.blockers_of(s)) {
                if (back_[e.blocker][s] || depth(e.blocker) + 1 != depth(s))
                    continue;
                if (best < 0 || senior(e.blocker, static_cast<SessionIndex>(best)))
                    best = static_cast<int>(e.blocker);
            }
            if (best >= 0)
                children_[static_cast<std::size_t>(best)].push_back(s);
        }
    }
    std::size_t rows_below(SessionIndex s) const {
        std::size_t rows = children_[s].size();
        for (const SessionIndex child : children_[s])
            rows += rows_below(child);
        return rows;
    }
    void sort_siblings(std::vector<SessionIndex>& siblings) const {
        std::vector<std::pair<std::size_t, SessionIndex>> sized;
        for (const SessionIndex s : siblings)
            sized.emplace_back(rows_below(s), s);
        std::sort(sized.begin(), sized.end(), [&](const auto& a, const auto& b) {
            return a.first != b.first ? a.first > b.first : senior(a.second, b.second);
        });
        for (std::size_t i = 0; i < sized.size(); ++i)
            siblings[i] = sized[i].second;
    }
    /// levels: for each level above the row's own branch, does a line run through it?
    void draw(SessionIndex s, SessionIndex root, std::vector<bool> levels, bool more_siblings) {
        const int p = parent_[s];
        std::string tree;
        if (p >= 0) {
            std::size_t left_out = 0;
            while (levels.size() + 1 - left_out > kDrawnDepth)
                left_out += kDrawnDepth;
            if (left_out > 0)
                tree = "…" + std::to_string(left_out) + " ";
            for (std::size_t level = left_out; level < levels.size(); ++level)
                tree += levels[level] ? "│  " : "   ";
            tree += more_siblings ? "├─ " : "└─ ";
        }
        tree += std::to_string(graph_.sessions[s].pid);
        std::uint32_t blocks = 0;
        for (SessionIndex w = 0; w < n_; ++w)
            blocks += reaches_[s][w] && w != s ? 1 : 0;
        rows_.push_back(
            {s, static_cast<std::uint32_t>(depth(s)), root, p, blocks, reaches_[s][s], tree});
        if (p >= 0)
            levels.push_back(more_siblings);
        auto children = children_[s];
        sort_siblings(children);
        for (const SessionIndex child : children)
            draw(child, root, levels, child != children.back());
    }

    const LockGraph graph_;
    const std::span<const Timestamp> xact_starts_;
    const std::size_t n_;
    std::vector<std::vector<bool>> edge_; // [blocker][waiter]
    std::vector<std::vector<bool>> reaches_;
    std::vector<std::vector<bool>> back_;
    std::vector<std::vector<SessionIndex>> waiters_;
    std::vector<int> depth_;
    std::vector<int> parent_;
    std::vector<std::vector<SessionIndex>> children_;
    Rows rows_;
};

struct RandomShape {
    const char* name;
    std::uint32_t sessions;
    std::uint32_t edges;
    std::uint32_t cycle_percent; // of the edges whose direction is free
    int rounds;
};

void PrintTo(const RandomShape& shape, std::ostream* out) {
    *out << shape.name;
}

class LockForestRandomTest : public testing::TestWithParam<RandomShape> {};

TEST_P(LockForestRandomTest, EqualsTheDefinition) {
    const RandomShape& shape = GetParam();
    std::mt19937 random(shape.sessions * 7919 + shape.edges);
    const auto below = [&](std::uint32_t limit) {
        return static_cast<std::uint32_t>(random() % limit);
    };
    std::size_t deadlocked = 0;
    std::size_t waiting = 0;
    for (int round = 0; round < shape.rounds; ++round) {
        GraphMaker maker;
        for (std::uint32_t i = 0; i < shape.sessions; ++i)
            maker.session(
                static_cast<std::int32_t>(below(6) == 0 ? 0 : 100 + below(shape.sessions)),
                below(8) == 0 ? kUnknownTime : below(shape.sessions));
        // A hidden order makes the graph acyclic, but for the free edges.
        std::vector<SessionIndex> order(shape.sessions);
        for (SessionIndex i = 0; i < shape.sessions; ++i)
            order[i] = i;
        std::shuffle(order.begin(), order.end(), random);
        for (std::uint32_t i = 0; i < shape.edges; ++i) {
            std::uint32_t a = below(shape.sessions);
            std::uint32_t b = below(shape.sessions);
            if (a == b)
                continue;
            if (a > b && below(100) >= shape.cycle_percent)
                std::swap(a, b);
            maker.edge(order[b], order[a], below(2) == 0, static_cast<LockMode>(1 + below(8)));
        }
        const LockGraph graph = maker.graph();
        TestMemory memory;
        const Rows rows = grow(graph, maker.xact_starts(), memory);
        ASSERT_EQ(rows, ForestByDefinition(graph, maker.xact_starts()).rows()) << "round " << round;

        std::vector<int> seen(shape.sessions);
        for (const Row& row : rows) {
            ++seen[row.session];
            deadlocked += row.deadlock ? 1 : 0;
            waiting += row.depth > 0 ? 1 : 0;
        }
        for (SessionIndex s = 0; s < shape.sessions; ++s) {
            ASSERT_LE(seen[s], 1);
            if (!graph.blockers_of(s).empty()) {
                ASSERT_EQ(seen[s], 1);
            }
        }
    }
    EXPECT_GT(waiting, 0U);
    EXPECT_EQ(deadlocked > 0, shape.cycle_percent > 0);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, LockForestRandomTest,
    testing::Values(RandomShape{"sparse", 12, 8, 0, 400}, RandomShape{"mesh", 15, 30, 0, 400},
                    RandomShape{"dense", 14, 120, 0, 200},
                    RandomShape{"few_cycles", 20, 25, 10, 600},
                    RandomShape{"cycles", 12, 20, 50, 800}, RandomShape{"knots", 10, 45, 60, 400},
                    RandomShape{"wide", 60, 70, 5, 200},
                    // More sessions than one pass of the counting holds, and cycles across passes.
                    RandomShape{"two_passes", 600, 900, 0, 3},
                    RandomShape{"three_passes", 1100, 2600, 0, 2},
                    RandomShape{"cycle_across_passes", 700, 1400, 50, 3},
                    RandomShape{"cycles_across_passes", 1200, 1500, 20, 2}),
    [](const testing::TestParamInfo<RandomShape>& info) { return info.param.name; });

TEST(LockForestSizeTest, ExactlyOnePassAndOneMore) {
    // A ladder of diamonds, so that the short cut for forests does not apply.
    for (const std::uint32_t count : {511U, 512U, 513U, 1024U, 1025U}) {
        GraphMaker maker;
        for (std::uint32_t i = 0; i < count; ++i)
            maker.session(static_cast<std::int32_t>(i), i);
        for (SessionIndex i = 1; i < count; ++i) {
            maker.edge(i, i - 1);
            if (i >= 2)
                maker.edge(i, i - 2);
        }
        TestMemory memory;
        const Rows rows = grow(maker.graph(), maker.xact_starts(), memory);
        ASSERT_EQ(rows.size(), count);
        for (std::uint32_t i = 0; i < count; ++i) {
            ASSERT_EQ(rows[i].session, i);
            ASSERT_EQ(rows[i].depth, i);
            ASSERT_EQ(rows[i].blocks, count - 1 - i);
        }
    }
}

TEST(LockForestSizeTest, AChainOfAHundredThousand) {
    constexpr std::uint32_t kSessions = 100'000;
    GraphMaker maker;
    for (std::uint32_t i = 0; i < kSessions; ++i)
        maker.session(static_cast<std::int32_t>(i), i);
    for (SessionIndex i = 1; i < kSessions; ++i)
        maker.edge(i, i - 1);
    TestMemory memory;
    const auto rows = grow_lock_forest(maker.graph(), maker.xact_starts(), memory);
    ASSERT_EQ(rows.size(), kSessions);
    EXPECT_EQ(rows.back().depth, kSessions - 1);
    EXPECT_EQ(rows.front().blocks, kSessions - 1);
    EXPECT_EQ(rows.back().tree.substr(0, std::string_view("…99980 ").size()), "…99980 ");
    for (const ForestRow& row : rows)
        ASSERT_LT(row.tree.size(), 150U);
    EXPECT_LT(memory.peak_bytes(), kSessions * std::size_t{500});
}

TEST(LockForestSizeTest, ARingOfAHundredThousand) {
    constexpr std::uint32_t kSessions = 100'000;
    GraphMaker maker;
    for (std::uint32_t i = 0; i < kSessions; ++i)
        maker.session(static_cast<std::int32_t>(i), i);
    for (SessionIndex i = 0; i < kSessions; ++i)
        maker.edge((i + 1) % kSessions, i);
    TestMemory memory;
    const auto rows = grow_lock_forest(maker.graph(), maker.xact_starts(), memory);
    ASSERT_EQ(rows.size(), kSessions);
    for (std::uint32_t i = 0; i < kSessions; ++i) {
        ASSERT_EQ(rows[i].session, i);
        ASSERT_EQ(rows[i].blocks, kSessions - 1);
        ASSERT_TRUE(rows[i].deadlock);
    }
    EXPECT_LT(memory.peak_bytes(), kSessions * std::size_t{500});
}

TEST(LockForestMemoryTest, EveryFailureIsBadAllocAndLeavesNothing) {
    GraphMaker forest;
    forest.session(1, 1);
    forest.edge(forest.session(2, 2), 0);
    EXPECT_GE(fail_every_allocation([&](std::pmr::memory_resource& memory) {
                  EXPECT_EQ(
                      core::grow_lock_forest(forest.graph(), forest.xact_starts(), memory).size(),
                      2U);
              }),
              10U);

    GraphMaker knot;
    for (int i = 0; i < 6; ++i)
        knot.session(i, i);
    for (SessionIndex w = 0; w < 5; ++w) {
        for (SessionIndex b = 0; b < 5; ++b) {
            if (w != b)
                knot.edge(w, b);
        }
    }
    knot.edge(5, 0);
    EXPECT_GE(fail_every_allocation([&](std::pmr::memory_resource& memory) {
                  EXPECT_EQ(core::grow_lock_forest(knot.graph(), knot.xact_starts(), memory).size(),
                            6U);
              }),
              15U);
}

} // namespace
} // namespace lockguard::core
