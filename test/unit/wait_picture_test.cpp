#include "core/wait_picture.h"
#include "core/words/pictures.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <cstring>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace lockguard::core {
namespace {

/// A graph with its rows, and what its sessions want.
class Scene {
  public:
    explicit Scene(TableBuilder tables, std::vector<std::uint32_t> wants = {})
        : tables_(std::move(tables)), graph_(build_lock_graph(tables_.table(), memory_)),
          rows_(grow_lock_forest(graph_, {}, memory_)), wants_(std::move(wants)) {
        wants_.resize(graph_.sessions.size());
    }

    WaitPicture compose(PictureLimits limits = kPictureLimits) {
        return compose_picture(graph_, rows_, wants_, limits, memory_);
    }

    /// "1000", "1001<1000": each node, and the one that it hangs under; "(5)<1000" is a fold, "[5]"
    /// a mixed one.
    std::string text(const WaitPicture& picture) const {
        std::string text;
        const auto name = [&](NodeIndex i) {
            const PictureNode& node = picture.nodes[i];
            return node.folded > 0 ? (node.mixed ? "[" : "(") + std::to_string(node.folded) +
                                         (node.mixed ? "]" : ")")
                                   : std::to_string(graph_.sessions[node.session].pid);
        };
        for (NodeIndex i = 0; i < picture.nodes.size(); ++i) {
            text += i == 0 ? "" : " ";
            text += name(i);
            if (picture.nodes[i].above != kNoNode)
                text += '<' + name(picture.nodes[i].above);
        }
        for (const PictureEdge& edge : picture.edges)
            text += "; " + name(edge.waiter) + (edge.holds ? "<=" : "<-") + name(edge.blocker);
        return text;
    }

    std::string composed(PictureLimits limits = kPictureLimits) { return text(compose(limits)); }

    const LockGraph& graph() const { return graph_; }

  private:
    TestMemory memory_;
    TableBuilder tables_; // has the sessions
    LockGraph graph_;
    std::span<const ForestRow> rows_;
    std::vector<std::uint32_t> wants_;
};

/// A reader, an ALTER TABLE behind it, and so many readers behind that.
TableBuilder alter_and_readers(std::uint32_t readers) {
    TableBuilder tables;
    tables.add_sessions(2 + readers);
    std::vector<Waiter> queue = {{1, kAccessExclusive}};
    for (std::uint32_t i = 0; i < readers; ++i)
        queue.push_back({2 + i, kAccessShare});
    tables.lock({{0, mode_bit(kAccessShare)}}, queue);
    return tables;
}

std::size_t sessions_in(const WaitPicture& picture) {
    std::size_t count = 0;
    for (const PictureNode& node : picture.nodes)
        count += node.folded > 0 ? node.folded : 1;
    return count;
}

TEST(WaitPictureTest, NobodyWaits) {
    Scene scene((TableBuilder()));
    EXPECT_EQ(scene.composed(), "");
}

TEST(WaitPictureTest, EverybodyHasANodeWhereThereIsRoom) {
    Scene scene(alter_and_readers(3));
    EXPECT_EQ(scene.composed(), "1000 1001<1000 1002<1001 1003<1001 1004<1001");
    EXPECT_EQ(scene.composed({5, 0}), scene.composed());
}

TEST(WaitPictureTest, SaysWhatTheEdgesAreLike) {
    Scene scene(alter_and_readers(1));
    const WaitPicture picture = scene.compose();
    ASSERT_EQ(picture.nodes.size(), 3U);
    EXPECT_EQ(picture.nodes[1].mode, kAccessShare);
    EXPECT_TRUE(picture.nodes[1].holds);
    EXPECT_EQ(picture.nodes[2].mode, kAccessExclusive);
    EXPECT_FALSE(picture.nodes[2].holds);
}

TEST(WaitPictureTest, FoldsTheLastOfThoseThatWantTheSame) {
    Scene scene(alter_and_readers(10));
    EXPECT_EQ(scene.composed({6, 0}), "1000 1001<1000 1002<1001 1003<1001 1004<1001 (7)<1001");
    EXPECT_EQ(scene.composed({4, 0}), "1000 1001<1000 1002<1001 (9)<1001");
    EXPECT_EQ(scene.composed({3, 0}), "1000 1001<1000 (10)<1001");
}

TEST(WaitPictureTest, FoldsTheIssuesExample) {
    Scene scene(alter_and_readers(609));
    const WaitPicture picture = scene.compose();
    EXPECT_EQ(picture.nodes.size(), 200U);
    EXPECT_EQ(picture.nodes.back().folded, 412U);
    EXPECT_EQ(sessions_in(picture), 611U);
}

TEST(WaitPictureTest, KeepsThoseApartThatWantDifferentThings) {
    TableBuilder tables;
    tables.add_sessions(9);
    std::vector<Waiter> queue;
    for (SessionIndex i = 1; i < 9; ++i)
        queue.push_back({i, i % 2 == 0 ? kAccessShare : kRowShare});
    tables.lock({{0, mode_bit(kAccessExclusive)}}, queue);
    Scene scene(tables, {0, 2, 1, 2, 1, 2, 1, 2, 1});
    EXPECT_EQ(scene.composed({5, 0}), "1000 1001<1000 1002<1000 (3)<1000 (3)<1000");
}

TEST(WaitPictureTest, WhatHasNoRoomAtAllIsOneFold) {
    TableBuilder tables;
    tables.add_sessions(20);
    for (SessionIndex i = 1; i < 20; ++i)
        tables.direct(i, i - 1, kAccessShare);
    Scene scene(tables);
    EXPECT_EQ(scene.composed({5, 0}), "1000 1001<1000 1002<1001 1003<1002 [16]<1003");
}

TEST(WaitPictureTest, ForestsAreCutBetweenTrees) {
    TableBuilder tables;
    tables.add_sessions(20);
    for (SessionIndex i = 0; i < 20; i += 2)
        tables.direct(i + 1, i, kAccessShare);
    Scene scene(tables);
    EXPECT_EQ(scene.composed({5, 0}), "1000 1001<1000 1002 1003<1002 [16]");
}

TEST(WaitPictureTest, CountsEverybodyWhateverTheLimit) {
    TableBuilder tables;
    tables.add_sessions(60);
    std::vector<Waiter> queue;
    for (SessionIndex i = 5; i < 40; ++i)
        queue.push_back({i, i % 7 == 0 ? kAccessExclusive : kAccessShare});
    tables.lock({{0, mode_bit(kAccessShare)}, {1, mode_bit(kAccessShare)}}, queue);
    for (SessionIndex i = 40; i < 60; ++i)
        tables.direct(i, i % 5, kAccessShare);
    std::vector<std::uint32_t> wants(60);
    for (SessionIndex i = 5; i < 40; ++i)
        wants[i] = i % 7 == 0 ? 8 : 1;
    Scene scene(tables, wants);
    for (std::size_t limit = 2; limit < 70; ++limit) {
        const WaitPicture picture = scene.compose({limit, 20});
        EXPECT_LE(picture.nodes.size(), limit);
        EXPECT_EQ(sessions_in(picture), 60U) << limit;
        for (NodeIndex i = 0; i < picture.nodes.size(); ++i) {
            const NodeIndex above = picture.nodes[i].above;
            EXPECT_TRUE(above == kNoNode || (above < i && picture.nodes[above].folded == 0));
        }
    }
}

TEST(WaitPictureTest, OtherHoldersHaveEdgesAsWell) {
    TableBuilder tables;
    tables.add_sessions(4);
    tables.lock({{0, mode_bit(kAccessShare)}, {1, mode_bit(kAccessShare)}},
                {{2, kAccessExclusive}, {3, kAccessExclusive}});
    Scene scene(tables);
    EXPECT_EQ(scene.composed(),
              "1000 1002<1000 1003<1002 1001; 1002<=1001; 1003<=1000; 1003<=1001");
    EXPECT_EQ(scene.composed({10, 1}), "1000 1002<1000 1003<1002 1001; 1002<=1001");
}

TEST(WaitPictureTest, AWaiterHasABoundedNumberOfEdges) {
    TableBuilder tables;
    tables.add_sessions(21);
    for (SessionIndex i = 0; i < 20; ++i)
        tables.direct(20, i, kAccessShare);
    Scene scene(tables);
    EXPECT_EQ(scene.compose().edges.size(), kFurtherEdges);
}

TEST(WaitPictureTest, ACycleIsClosed) {
    TableBuilder tables;
    tables.add_sessions(3);
    for (SessionIndex i = 0; i < 3; ++i)
        tables.direct(i, (i + 1) % 3, kExclusive);
    Scene scene(tables);
    const WaitPicture picture = scene.compose();
    EXPECT_EQ(scene.text(picture), "1000 1002<1000 1001<1002; 1000<=1001");
    for (const PictureNode& node : picture.nodes)
        EXPECT_TRUE(node.deadlock);
}

TEST(WaitPictureTest, FailsCleanlyWithoutMemory) {
    const TableBuilder tables = alter_and_readers(10);
    TestMemory memory;
    const LockGraph graph = build_lock_graph(tables.table(), memory);
    const auto rows = grow_lock_forest(graph, {}, memory);
    const std::vector<std::uint32_t> wants(graph.sessions.size());
    EXPECT_GT(fail_every_allocation([&](auto& failing) {
                  compose_picture(graph, rows, wants, {6, 6}, failing);
              }),
              0U);
}

// ---- As text

std::string checked(std::string_view text, const TestMemory& memory) {
    EXPECT_EQ(std::strlen(text.data()), text.size()) << "no NUL after the end";
    EXPECT_EQ(memory.live_blocks(), 1U) << "work space was left behind";
    return std::string(text);
}

PictureLabel label(std::int32_t pid, std::string_view application) {
    PictureLabel label = {};
    label.pid = pid;
    label.tree.application = application;
    label.tree.waited = -1;
    return label;
}

/// A root, one that waits for it, and a fold.
struct Small {
    std::vector<PictureNode> nodes = {
        {.session = 0,
         .above = kNoNode,
         .mode = 0,
         .holds = false,
         .deadlock = false,
         .mixed = false,
         .folded = 0},
        {.session = 1,
         .above = 0,
         .mode = kAccessShare,
         .holds = true,
         .deadlock = false,
         .mixed = false,
         .folded = 0},
        {.session = 2,
         .above = 1,
         .mode = kAccessExclusive,
         .holds = false,
         .deadlock = false,
         .mixed = false,
         .folded = 412},
    };
    std::vector<PictureEdge> edges;
    std::vector<PictureLabel> labels = {label(4711, "sidekiq"), label(4712, "migrate"),
                                        label(0, "")};

    Small() {
        labels[0].state = "idle in transaction";
        labels[1].tree.wants = "AccessExclusiveLock";
        labels[1].tree.object = "public.users";
        labels[1].tree.waited = 30'000'000;
        labels[2].word = "readers";
    }
    std::string diagram(DiagramFormat format) const {
        TestMemory memory;
        return checked(diagram_text({nodes, edges}, labels, format, memory), memory);
    }
    std::string tree() const {
        TestMemory memory;
        return checked(picture_tree_text({nodes, edges}, labels, memory), memory);
    }
};

TEST(DiagramTextTest, Mermaid) {
    EXPECT_EQ(Small().diagram(DiagramFormat::mermaid), R"(flowchart BT
    s0["PID 4711 sidekiq<br>idle in transaction"]:::rootcause
    s1["PID 4712 migrate<br>wants AccessExclusiveLock<br>on public.users<br>for 30 s"]
    s2["and 412 more readers"]
    s1 -->|"holds AccessShareLock"| s0
    s2 -.->|"ahead, wants AccessExclusiveLock"| s1
    classDef rootcause stroke-width:3px
)");
}

TEST(DiagramTextTest, Dot) {
    EXPECT_EQ(Small().diagram(DiagramFormat::dot), R"(digraph lock_graph {
    rankdir=BT;
    node [shape=box, style=rounded, fontname="sans-serif", fontsize=10];
    edge [fontname="sans-serif", fontsize=9];
    s0 [label="PID 4711 sidekiq\nidle in transaction", style="rounded,bold"];
    s1 [label="PID 4712 migrate\nwants AccessExclusiveLock\non public.users\nfor 30 s"];
    s2 [label="and 412 more readers"];
    s1 -> s0 [label="holds AccessShareLock"];
    s2 -> s1 [label="ahead, wants AccessExclusiveLock", style=dotted];
}
)");
}

TEST(DiagramTextTest, NobodyWaits) {
    TestMemory memory;
    EXPECT_EQ(diagram_text({}, {}, DiagramFormat::mermaid, memory),
              "flowchart BT\n    s0[\"nobody waits\"]\n");
    EXPECT_NE(diagram_text({}, {}, DiagramFormat::dot, memory).find("nobody waits"),
              std::string_view::npos);
}

TEST(DiagramTextTest, PreparedTransactionsAndCycles) {
    Small small;
    small.labels[0] = label(0, "");
    small.labels[0].tree.gid = "order 7";
    small.nodes[0].deadlock = small.nodes[1].deadlock = true;
    small.edges = {{0, 1, kExclusive, true}};
    const std::string mermaid = small.diagram(DiagramFormat::mermaid);
    EXPECT_NE(mermaid.find("s0[\"prepared transaction<br>order 7\"]:::deadlock\n"),
              std::string::npos);
    EXPECT_NE(mermaid.find("s0 -->|\"holds ExclusiveLock\"| s1\n"), std::string::npos);
    EXPECT_NE(mermaid.find("classDef deadlock"), std::string::npos);
    EXPECT_EQ(mermaid.find("classDef rootcause"), std::string::npos);
}

TEST(DiagramTextTest, AMixedFoldHangsWithoutAMode) {
    Small small;
    small.nodes[2].mixed = true;
    EXPECT_NE(small.diagram(DiagramFormat::mermaid).find("s2[\"and 412 more sessions\"]"),
              std::string::npos);
    EXPECT_NE(small.diagram(DiagramFormat::mermaid).find("s2 --> s1\n"), std::string::npos);
}

/// Every byte, and what an attacker would try.
std::vector<std::string> hostile_names() {
    std::vector<std::string> names = {
        "\"] --> x[\"",
        "`markdown`",
        "%%{init: {'theme': 'x'}}%%",
        "<script>alert(1)</script>",
        "#quot;",
        "a\\",
        "\\\" ]; evil [label=\"x",
        "\\N\\G\\l",
        "&lt;b&gt;",
        "end",
        "style x:y#;",
        "classDef x:y#z;",
        "a\nb --> c",
        "|\"x\"|",
        "```\nend",
        "click s0 call x()",
    };
    std::string all;
    for (int c = 1; c < 256; ++c)
        all += static_cast<char>(c);
    names.push_back(all);
    return names;
}

TEST(DiagramTextTest, NoNameLeavesItsPlaceInMermaid) {
    // What the grammar of flowcharts lets stand in a quoted string, and nothing that it, or what
    // runs before it, gives a meaning to.
    const std::regex node(
        R"re(    s[0-9]+\["([A-Za-z0-9 _.,()/+\x80-\xff?-]|#[0-9]+;|<br>)*"\](:::[a-z]+)?)re");
    for (const std::string& name : hostile_names()) {
        Small small;
        small.labels[0].tree.application = name;
        small.labels[1].tree.object = name;
        std::istringstream lines(small.diagram(DiagramFormat::mermaid));
        std::string line;
        int nodes = 0;
        while (std::getline(lines, line)) {
            if (line.find('[') == std::string::npos)
                continue;
            // '?' is what control characters become; it is no more than a letter to the grammar.
            EXPECT_TRUE(std::regex_match(line, node)) << line;
            ++nodes;
        }
        EXPECT_EQ(nodes, 3);
    }
}

TEST(DiagramTextTest, NoNameLeavesItsPlaceInDot) {
    const std::regex node(
        R"re(    s[0-9]+ \[label="([^"\\]|\\["\\n])*"(, [a-z]+=[^"]*("[a-z,]*")?)*\];)re");
    const std::regex edge("^    s[0-9]+ -> ");
    for (const std::string& name : hostile_names()) {
        Small small;
        small.labels[0].tree.application = name;
        small.labels[1].tree.object = name;
        std::istringstream lines(small.diagram(DiagramFormat::dot));
        std::string line;
        int nodes = 0;
        while (std::getline(lines, line)) {
            if (line.rfind("    s", 0) != 0 || std::regex_search(line, edge))
                continue;
            EXPECT_TRUE(std::regex_match(line, node)) << line;
            ++nodes;
        }
        EXPECT_EQ(nodes, 3);
    }
}

TEST(DiagramTextTest, FailsCleanlyWithoutMemory) {
    const Small small;
    for (const DiagramFormat format : {DiagramFormat::mermaid, DiagramFormat::dot}) {
        EXPECT_GT(fail_every_allocation([&](auto& memory) {
                      diagram_text({small.nodes, small.edges}, small.labels, format, memory);
                  }),
                  0U);
    }
}

TEST(PictureTreeTextTest, DrawsALockTree) {
    EXPECT_EQ(Small().tree(),
              "4711 \"sidekiq\"\n"
              "└─ 4712 \"migrate\" wants AccessExclusiveLock on public.users for 30 s\n"
              "   └─ ... and 412 more readers");
}

TEST(PictureTreeTextTest, DrawsAsTheLockTreeDoes) {
    TableBuilder tables;
    tables.add_sessions(60);
    for (SessionIndex i = 1; i < 60; ++i)
        tables.direct(i, i < 45 ? i - 1 : i / 3, kAccessShare);
    TestMemory memory;
    const LockGraph graph = build_lock_graph(tables.table(), memory);
    const auto rows = grow_lock_forest(graph, {}, memory);
    const std::vector<std::uint32_t> wants(60);
    const WaitPicture picture = compose_picture(graph, rows, wants, kPictureLimits, memory);
    std::vector<PictureLabel> labels;
    std::string expected;
    for (const ForestRow& row : rows) {
        labels.push_back(label(graph.sessions[row.session].pid, ""));
        expected += (expected.empty() ? "" : "\n") + std::string(row.tree);
    }
    EXPECT_EQ(picture_tree_text(picture, labels, memory), expected);
}

TEST(PictureTreeTextTest, SurvivesNodesThatHangUnderNone) {
    Small small;
    small.nodes[1].above = 77;
    small.nodes[2].above = 2;
    EXPECT_EQ(small.tree(), "4711 \"sidekiq\"\n4712 \"migrate\" wants AccessExclusiveLock on "
                            "public.users for 30 s\n... and 412 more readers");
}

TEST(WaitersWordTest, ByMode) {
    EXPECT_EQ(waiters_word(kAccessShare, true), "readers");
    EXPECT_EQ(waiters_word(kRowExclusive, true), "writers");
    EXPECT_EQ(waiters_word(kShare, true), "writers");
    EXPECT_EQ(waiters_word(kAccessExclusive, true), "sessions");
    EXPECT_EQ(waiters_word(kExclusive, false), "sessions");
    EXPECT_EQ(waiters_word(kNoLockMode, true), "sessions");
}

} // namespace
} // namespace lockguard::core
