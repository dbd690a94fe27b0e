#include "core/lock_graph.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <vector>

namespace lockguard::core {

bool operator==(const Edge& a, const Edge& b) {
    return a.blocker == b.blocker && a.holds == b.holds && a.mode == b.mode;
}

std::ostream& operator<<(std::ostream& out, const Edge& edge) {
    return out << (edge.holds ? "holds " : "ahead ") << edge.blocker << " mode "
               << static_cast<int>(edge.mode);
}

namespace {

using Edges = std::vector<Edge>;

Edge holds(SessionIndex blocker, LockMode mode) {
    return {blocker, true, mode};
}

Edge ahead(SessionIndex blocker, LockMode mode) {
    return {blocker, false, mode};
}

Edges list_of(const LockGraph& graph, SessionIndex session) {
    const auto edges = graph.blockers_of(session);
    return {edges.begin(), edges.end()};
}

class LockGraphTest : public testing::Test {
  protected:
    LockGraph build() {
        const LockGraph graph = build_lock_graph(tables_.table(), memory_);
        check_shape(graph);
        return graph;
    }

    void check_shape(const LockGraph& graph) {
        ASSERT_EQ(graph.sessions.size(), tables_.table().sessions.size());
        ASSERT_EQ(graph.first_edge.size(), graph.sessions.size() + 1);
        EXPECT_EQ(graph.first_edge.front(), 0U);
        EXPECT_EQ(graph.first_edge.back(), graph.edges.size());
        EXPECT_TRUE(std::is_sorted(graph.first_edge.begin(), graph.first_edge.end()));
        // Only the result is left: nothing of the work space.
        EXPECT_LE(memory_.live_blocks(), 2U);
        EXPECT_FALSE(memory_.misused());
    }

    TableBuilder tables_;
    TestMemory memory_;
};

TEST_F(LockGraphTest, NothingAtAll) {
    const LockGraph graph = build();
    EXPECT_TRUE(graph.sessions.empty());
    EXPECT_TRUE(graph.edges.empty());
}

TEST_F(LockGraphTest, HoldersWithoutAQueueBlockNobody) {
    tables_.add_sessions(2);
    tables_.lock({{0, mode_bit(kAccessExclusive)}, {1, mode_bit(kAccessShare)}}, {});
    EXPECT_TRUE(build().edges.empty());
}

TEST_F(LockGraphTest, ReaderThenAlterThenReaders) {
    tables_.add_sessions(4);
    tables_.lock({{0, mode_bit(kAccessShare)}},
                 {{1, kAccessExclusive}, {2, kAccessShare}, {3, kAccessShare}});
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 0), Edges{});
    EXPECT_EQ(list_of(graph, 1), Edges({holds(0, kAccessShare)}));
    EXPECT_EQ(list_of(graph, 2), Edges({ahead(1, kAccessExclusive)}));
    EXPECT_EQ(list_of(graph, 3), Edges({ahead(1, kAccessExclusive)}));
}

TEST_F(LockGraphTest, EveryPairOfModesAsHolderAndAsQueue) {
    tables_.add_sessions(3);
    for (LockMode first = 1; first < kMaxLockMode; ++first) {
        for (LockMode second = 1; second < kMaxLockMode; ++second) {
            const bool conflict = (kConflicts[second] & static_cast<int>(mode_bit(first))) != 0;

            TableBuilder held;
            held.add_sessions(2);
            held.lock({{0, mode_bit(first)}}, {{1, second}});
            EXPECT_EQ(list_of(build_lock_graph(held.table(), memory_), 1),
                      conflict ? Edges({holds(0, first)}) : Edges{});

            TableBuilder queued;
            queued.add_sessions(2);
            queued.lock({}, {{0, first}, {1, second}});
            const LockGraph graph = build_lock_graph(queued.table(), memory_);
            EXPECT_EQ(list_of(graph, 0), Edges{});
            EXPECT_EQ(list_of(graph, 1), conflict ? Edges({ahead(0, first)}) : Edges{});
        }
    }
}

TEST_F(LockGraphTest, ConflictsAreThoseOfTheAwaitedMode) {
    // A table that is not symmetric: mode 1 conflicts with 2, mode 2 with nothing.
    const std::array<std::int32_t, kMaxLockMode> conflicts = {0, modes({2})};
    tables_.add_sessions(4);
    tables_.lock({{0, mode_bit(2)}}, {{1, 1}}, conflicts.data());
    tables_.lock({{2, mode_bit(1)}}, {{3, 2}}, conflicts.data());
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 1), Edges({holds(0, 2)}));
    EXPECT_EQ(list_of(graph, 3), Edges{});
}

TEST_F(LockGraphTest, NamesTheStrongestConflictingModeHeld) {
    tables_.add_sessions(2);
    // Share itself would be the strongest, but does not conflict with Share.
    tables_.lock(
        {{0, static_cast<ModeMask>(modes({kAccessShare, kRowShare, kRowExclusive, kShare}))}},
        {{1, kShare}});
    EXPECT_EQ(list_of(build(), 1), Edges({holds(0, kRowExclusive)}));
}

TEST_F(LockGraphTest, HoldingAndQueueingAheadCountsAsHolding) {
    tables_.add_sessions(3);
    // 0 holds RowExclusive and queues for AccessExclusive; 1 is blocked by both.
    tables_.lock({{0, mode_bit(kRowExclusive)}, {2, mode_bit(kAccessShare)}},
                 {{0, kAccessExclusive}, {1, kShare}});
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 0), Edges({holds(2, kAccessShare)}));
    EXPECT_EQ(list_of(graph, 1), Edges({holds(0, kRowExclusive)}));
}

TEST_F(LockGraphTest, AHolderWhoseModesDoNotConflictStillBlocksByItsPlace) {
    tables_.add_sessions(3);
    tables_.lock({{0, mode_bit(kAccessShare)}, {2, mode_bit(kAccessShare)}},
                 {{0, kAccessExclusive}, {1, kRowShare}});
    EXPECT_EQ(list_of(build(), 1), Edges({ahead(0, kAccessExclusive)}));
}

TEST_F(LockGraphTest, ThoseBehindDoNotBlock) {
    tables_.add_sessions(3);
    tables_.lock({}, {{2, kAccessExclusive}, {1, kAccessExclusive}, {0, kAccessExclusive}});
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 2), Edges{});
    EXPECT_EQ(list_of(graph, 1), Edges({ahead(2, kAccessExclusive)}));
    EXPECT_EQ(list_of(graph, 0), Edges({ahead(1, kAccessExclusive), ahead(2, kAccessExclusive)}));
}

TEST_F(LockGraphTest, PureWaitersHoldNothing) {
    tables_.add_sessions(2);
    tables_.lock({{0, 0}, {1, 0}}, {{1, kAccessExclusive}, {0, kAccessExclusive}});
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 1), Edges{});
    EXPECT_EQ(list_of(graph, 0), Edges({ahead(1, kAccessExclusive)}));
}

TEST_F(LockGraphTest, NobodyBlocksItself) {
    tables_.add_sessions(2);
    // A lock upgrade, and two members of one lock group in the same queue.
    tables_.lock({{0, mode_bit(kAccessShare)}}, {{0, kAccessExclusive}, {0, kAccessExclusive}});
    tables_.direct(0, 0, kAccessShare);
    EXPECT_TRUE(build().edges.empty());
}

TEST_F(LockGraphTest, MembersOfAGroupAreOneBlocker) {
    tables_.add_sessions(3);
    tables_.lock({{0, mode_bit(kAccessShare)},
                  {0, mode_bit(kRowExclusive)},
                  {1, mode_bit(kAccessShare)},
                  {0, mode_bit(kAccessShare)}},
                 {{2, kAccessExclusive}});
    EXPECT_EQ(list_of(build(), 2), Edges({holds(0, kRowExclusive), holds(1, kAccessShare)}));
}

TEST_F(LockGraphTest, AGroupThatWaitsForSeveralLocksIsBlockedByAll) {
    tables_.add_sessions(4);
    tables_.lock({{3, mode_bit(kExclusive)}}, {{1, kRowExclusive}});
    tables_.lock({{2, mode_bit(kShare)}}, {{0, kAccessExclusive}, {1, kRowExclusive}});
    tables_.lock({{0, mode_bit(kShareRowExclusive)}}, {{1, kRowExclusive}});
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 0), Edges({holds(2, kShare)}));
    EXPECT_EQ(list_of(graph, 1),
              Edges({holds(0, kShareRowExclusive), holds(2, kShare), holds(3, kExclusive)}));
}

TEST_F(LockGraphTest, TheStrongestOverSeveralLocksInAnyOrder) {
    for (const bool reverse : {false, true}) {
        TableBuilder tables;
        tables.add_sessions(2);
        const LockMode modes_held[] = {kShare, kExclusive};
        tables.lock({{0, mode_bit(modes_held[reverse ? 1 : 0])}}, {{1, kRowExclusive}});
        tables.lock({{0, mode_bit(modes_held[reverse ? 0 : 1])}}, {{1, kRowExclusive}});
        EXPECT_EQ(list_of(build_lock_graph(tables.table(), memory_), 1),
                  Edges({holds(0, kExclusive)}));
    }
}

TEST_F(LockGraphTest, AWeakModeHeldWinsOverAStrongOneWantedInAnyOrder) {
    for (const bool reverse : {false, true}) {
        TableBuilder tables;
        tables.add_sessions(2);
        if (reverse)
            tables.lock({{0, mode_bit(kAccessShare)}}, {{1, kAccessExclusive}});
        tables.lock({}, {{0, kAccessExclusive}, {1, kAccessExclusive}});
        if (!reverse)
            tables.lock({{0, mode_bit(kAccessShare)}}, {{1, kAccessExclusive}});
        EXPECT_EQ(list_of(build_lock_graph(tables.table(), memory_), 1),
                  Edges({holds(0, kAccessShare)}));
    }
}

TEST_F(LockGraphTest, AGroupQueueingTwiceNamesTheStrongestConflictingModeWanted) {
    tables_.add_sessions(2);
    tables_.lock({}, {{0, kShare}, {0, kExclusive}, {0, kRowShare}, {1, kRowExclusive}});
    EXPECT_EQ(list_of(build(), 1), Edges({ahead(0, kExclusive)}));
}

TEST_F(LockGraphTest, DirectWaitsAreHardEdges) {
    tables_.add_sessions(5);
    tables_.direct(4, 3, kNoLockMode); // a safe snapshot
    tables_.direct(4, 1, kNoLockMode);
    tables_.direct(2, 0, kAccessShare); // at low priority
    tables_.direct(2, 0, kRowExclusive);
    tables_.lock({}, {{0, kAccessExclusive}, {2, kAccessExclusive}});
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 4), Edges({holds(1, kNoLockMode), holds(3, kNoLockMode)}));
    EXPECT_EQ(list_of(graph, 2), Edges({holds(0, kRowExclusive)}));
}

TEST_F(LockGraphTest, EntriesThatCannotBeAreLeftOut) {
    tables_.add_sessions(3);
    constexpr SessionIndex kNobody = 3;
    tables_.lock({{0, mode_bit(kShare)}, {kNobody, mode_bit(kAccessExclusive)}},
                 {{kNobody, kAccessExclusive},
                  {0, kNoLockMode},
                  {1, kMaxLockMode},
                  {1, 255},
                  {2, kRowExclusive}});
    tables_.lock({{1, mode_bit(kShare)}}, {{2, kRowExclusive}}, nullptr);
    tables_.direct(kNobody, 0, kShare);
    tables_.direct(0, kNobody, kShare);
    tables_.direct(0, 1, kMaxLockMode);
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 0), Edges{});
    EXPECT_EQ(list_of(graph, 1), Edges{});
    EXPECT_EQ(list_of(graph, 2), Edges({holds(0, kShare)}));
}

TEST_F(LockGraphTest, BitsBeyondTheLockModesAreLeftOut) {
    std::array<std::int32_t, kMaxLockMode> conflicts{};
    conflicts.fill(-1);
    tables_.add_sessions(4);
    tables_.lock({{0, ~ModeMask{0}}, {1, 0xfffffe01}}, {{2, kAccessShare}, {3, kNoLockMode}},
                 conflicts.data());
    const LockGraph graph = build();
    EXPECT_EQ(list_of(graph, 2), Edges({holds(0, kAccessExclusive)}));
    EXPECT_EQ(list_of(graph, 3), Edges{});
}

TEST_F(LockGraphTest, SlicesOutsideTheirArraysAreLeftOut) {
    tables_.add_sessions(2);
    tables_.lock({{0, mode_bit(kShare)}}, {{1, kExclusive}});
    const Lock good = tables_.locks().front();
    const std::uint32_t kHuge = 0xffffffff;
    for (const Lock& bad :
         {Lock{1, 1, 0, 1, kConflicts.data()}, Lock{0, 2, 0, 1, kConflicts.data()},
          Lock{0, 1, 1, 1, kConflicts.data()}, Lock{0, 1, 0, 2, kConflicts.data()},
          Lock{kHuge, kHuge, 0, 1, kConflicts.data()},
          Lock{0, 1, kHuge, kHuge, kConflicts.data()}}) {
        tables_.locks() = {bad};
        EXPECT_TRUE(build_lock_graph(tables_.table(), memory_).edges.empty());
        tables_.locks() = {bad, good};
        EXPECT_EQ(list_of(build_lock_graph(tables_.table(), memory_), 1),
                  Edges({holds(0, kShare)}));
    }
}

TEST_F(LockGraphTest, LocksMayShareASlice) {
    tables_.add_sessions(2);
    tables_.lock({{0, mode_bit(kShare)}}, {{1, kExclusive}});
    tables_.locks().push_back(tables_.locks().front());
    EXPECT_EQ(list_of(build(), 1), Edges({holds(0, kShare)}));
}

/// The edges as pg_blocking_pids() finds them: everybody against everybody.
std::map<SessionIndex, Edge> edges_by_definition(const LockTable& table, SessionIndex session) {
    std::map<SessionIndex, Edge> edges;
    const auto note = [&](SessionIndex blocker, bool hard, LockMode mode) {
        if (blocker == session)
            return;
        const auto [known, is_new] = edges.try_emplace(blocker, Edge{blocker, hard, mode});
        Edge& edge = known->second;
        if (!is_new && (hard > edge.holds || (hard == edge.holds && mode > edge.mode)))
            edge = {blocker, hard, mode};
    };
    for (const Lock& lock : table.locks) {
        for (std::uint32_t i = 0; i < lock.waiter_count; ++i) {
            const Waiter& waiter = table.waiters[lock.first_waiter + i];
            if (waiter.session != session)
                continue;
            for (LockMode mode = 1; mode < kMaxLockMode; ++mode) {
                if (((lock.conflicts[waiter.wanted] >> mode) & 1) == 0)
                    continue;
                for (std::uint32_t h = 0; h < lock.holder_count; ++h) {
                    const Holder& holder = table.holders[lock.first_holder + h];
                    if ((holder.held >> mode & 1) != 0)
                        note(holder.session, true, mode);
                }
                for (std::uint32_t w = 0; w < i; ++w) {
                    const Waiter& other = table.waiters[lock.first_waiter + w];
                    if (other.wanted == mode)
                        note(other.session, false, mode);
                }
            }
        }
    }
    for (const DirectWait& wait : table.direct_waits) {
        if (wait.waiter == session)
            note(wait.blocker, true, wait.held);
    }
    return edges;
}

TEST(LockGraphRandomTest, EqualsTheDefinition) {
    std::mt19937 random(20240607);
    const auto below = [&](std::uint32_t limit) {
        return static_cast<std::uint32_t>(random() % limit);
    };
    std::size_t hard = 0;
    std::size_t soft = 0;
    for (int round = 0; round < 1500; ++round) {
        TableBuilder tables;
        const std::uint32_t session_count = 1 + below(30);
        tables.add_sessions(session_count);
        for (std::uint32_t lock = below(6); lock > 0; --lock) {
            std::vector<Holder> holders(below(12));
            for (Holder& holder : holders) {
                holder = {below(session_count), mode_bit(static_cast<LockMode>(1 + below(8)))};
                if (below(3) == 0)
                    holder.held |= mode_bit(static_cast<LockMode>(1 + below(8)));
                if (below(5) == 0)
                    holder.held = 0;
            }
            std::vector<Waiter> waiters(below(15));
            for (Waiter& waiter : waiters)
                waiter = {below(session_count), static_cast<LockMode>(1 + below(8))};
            tables.lock(holders, waiters);
        }
        for (std::uint32_t wait = below(4); wait > 0; --wait)
            tables.direct(below(session_count), below(session_count),
                          static_cast<LockMode>(below(9)));

        TestMemory memory;
        const LockGraph graph = build_lock_graph(tables.table(), memory);
        ASSERT_EQ(graph.first_edge.size(), session_count + 1);
        ASSERT_EQ(graph.first_edge[session_count], graph.edges.size());
        for (SessionIndex session = 0; session < session_count; ++session) {
            Edges expected;
            for (const auto& [blocker, edge] : edges_by_definition(tables.table(), session)) {
                expected.push_back(edge);
                ++(edge.holds ? hard : soft);
            }
            ASSERT_EQ(list_of(graph, session), expected) << "round " << round;
        }
    }
    // The rounds were worth it.
    EXPECT_GT(hard, 10000U);
    EXPECT_GT(soft, 10000U);
}

TEST(LockGraphSizeTest, AQueueOfAccessExclusive) {
    TableBuilder tables;
    tables.add_sessions(200);
    std::vector<Waiter> waiters;
    for (SessionIndex s = 200; s-- > 0;)
        waiters.push_back({s, kAccessExclusive});
    tables.lock({}, waiters);
    TestMemory memory;
    const LockGraph graph = build_lock_graph(tables.table(), memory);
    EXPECT_EQ(graph.edges.size(), 19900U);
    EXPECT_EQ(graph.blockers_of(0).size(), 199U);
    EXPECT_EQ(graph.blockers_of(199).size(), 0U);
}

TEST(LockGraphSizeTest, MemoryIsLinearWhereEdgesAreFew) {
    // 20 000 readers that hold, 20 000 readers that wait behind one ALTER TABLE: holders times
    // waiters would be 400 million.
    constexpr std::uint32_t kReaders = 20000;
    TableBuilder tables;
    tables.add_sessions(2 * kReaders + 1);
    std::vector<Holder> holders;
    std::vector<Waiter> waiters{{2 * kReaders, kAccessExclusive}};
    for (SessionIndex s = 0; s < kReaders; ++s) {
        holders.push_back({s, mode_bit(kAccessShare)});
        waiters.push_back({kReaders + s, kAccessShare});
    }
    tables.lock(holders, waiters);
    TestMemory memory;
    const LockGraph graph = build_lock_graph(tables.table(), memory);
    EXPECT_EQ(graph.edges.size(), std::size_t{2} * kReaders);
    EXPECT_LT(memory.peak_bytes(), (graph.sessions.size() + graph.edges.size()) * 100);
}

std::vector<SessionIndex> behind(const TableBuilder& tables, SessionIndex session) {
    TestMemory memory;
    const LockGraph graph = build_lock_graph(tables.table(), memory);
    const auto marks = std::make_unique<bool[]>(graph.sessions.size());
    std::fill_n(marks.get(), graph.sessions.size(), true); // what stood there does not count
    mark_waiters_behind(graph, session, {marks.get(), graph.sessions.size()});
    std::vector<SessionIndex> marked;
    for (SessionIndex s = 0; s < graph.sessions.size(); ++s) {
        if (marks[s])
            marked.push_back(s);
    }
    return marked;
}

TEST(WaitersBehindTest, DirectlyAndThroughOthers) {
    TableBuilder tables;
    tables.add_sessions(6);
    // 3 waits on 1, 0 on 3, 2 on 0; 4 waits on 5 and has nothing to do with it.
    tables.direct(3, 1, kNoLockMode);
    tables.direct(0, 3, kNoLockMode);
    tables.direct(2, 0, kNoLockMode);
    tables.direct(4, 5, kNoLockMode);
    EXPECT_EQ(behind(tables, 1), (std::vector<SessionIndex>{0, 2, 3}));
    EXPECT_EQ(behind(tables, 3), (std::vector<SessionIndex>{0, 2}));
    EXPECT_EQ(behind(tables, 2), (std::vector<SessionIndex>{}));
    EXPECT_EQ(behind(tables, 5), (std::vector<SessionIndex>{4}));
}

TEST(WaitersBehindTest, OnACycleASessionIsBehindItself) {
    TableBuilder tables;
    tables.add_sessions(3);
    tables.direct(0, 1, kNoLockMode);
    tables.direct(1, 0, kNoLockMode);
    tables.direct(2, 1, kNoLockMode);
    EXPECT_EQ(behind(tables, 0), (std::vector<SessionIndex>{0, 1, 2}));
    EXPECT_EQ(behind(tables, 2), (std::vector<SessionIndex>{}));
}

TEST(LockGraphMemoryTest, EveryFailureIsBadAllocAndLeavesNothing) {
    TableBuilder tables;
    tables.add_sessions(5);
    tables.lock({{0, mode_bit(kAccessShare)}, {3, mode_bit(kAccessShare)}},
                {{1, kAccessExclusive}, {2, kAccessShare}});
    tables.direct(4, 0, kNoLockMode);
    EXPECT_GE(fail_every_allocation([&](std::pmr::memory_resource& memory) {
                  EXPECT_EQ(build_lock_graph(tables.table(), memory).edges.size(), 4U);
              }),
              5U);
}

} // namespace
} // namespace lockguard::core
