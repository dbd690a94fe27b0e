// Lock tables, valid and damaged: the graph, the forest, chains and rings, what the worker makes of
// it, and the pictures.
#include "core/blocker_policy.h"
#include "core/lock_forest.h"
#include "core/lock_graph.h"
#include "core/lock_order.h"
#include "core/wait_picture.h"
#include "core/words/pictures.h"

#include "fuzz_input.h"

#include <array>
#include <memory>
#include <vector>

namespace lockguard::fuzz {
namespace {

using namespace core;

/// Exactly as large as what is in them, so that the sanitizers see who reads beyond.
struct Tables {
    std::vector<Session> sessions;
    std::vector<Lock> locks;
    std::vector<Holder> holders;
    std::vector<Waiter> waiters;
    std::vector<DirectWait> direct_waits;
    std::vector<Timestamp> xact_starts;
    std::vector<std::int32_t> conflicts;
    LockTable table() const { return {sessions, locks, holders, waiters, direct_waits}; }
};

LockMode any_mode(Input& input) {
    return static_cast<LockMode>(input.index(kMaxLockMode));
}

Timestamp any_time(Input& input) {
    const auto byte = input.number<std::uint8_t>();
    if (byte == 255)
        return kUnknownTime;
    return byte >= 240 ? input.number<Timestamp>() : byte;
}

Tables read_tables(Input& input) {
    Tables tables;
    const std::uint32_t sessions = input.count(40);
    for (std::uint32_t i = 0; i < sessions; i++) {
        tables.sessions.push_back({static_cast<std::int32_t>(input.index(200))});
        tables.xact_starts.push_back(any_time(input));
    }
    // PostgreSQL's own conflicts are among what the fuzzer finds; others must do no harm.
    for (unsigned i = 0; i < kMaxLockMode; i++)
        tables.conflicts.push_back(input.flag() ? 0x1fe : input.number<std::int32_t>());
    for (std::uint32_t i = input.count(20); i > 0; i--)
        tables.holders.push_back(
            {input.index(sessions), static_cast<ModeMask>(input.number<std::uint16_t>())});
    for (std::uint32_t i = input.count(40); i > 0; i--)
        tables.waiters.push_back({input.index(sessions), any_mode(input),
                                  input.number<std::uint8_t>(), any_time(input)});
    for (std::uint32_t i = input.count(8); i > 0; i--) {
        Lock lock = {};
        lock.first_holder = input.index(static_cast<std::uint32_t>(tables.holders.size()) + 1);
        lock.holder_count = input.index(static_cast<std::uint32_t>(tables.holders.size()) + 1);
        lock.first_waiter = input.index(static_cast<std::uint32_t>(tables.waiters.size()) + 1);
        lock.waiter_count = input.index(static_cast<std::uint32_t>(tables.waiters.size()) + 1);
        lock.conflicts = input.count(15) == 15 ? nullptr : tables.conflicts.data();
        lock.kind = static_cast<WaitKind>(input.count(2));
        tables.locks.push_back(lock);
    }
    for (std::uint32_t i = input.count(8); i > 0; i--)
        tables.direct_waits.push_back({input.index(sessions), input.index(sessions),
                                       any_mode(input), static_cast<WaitKind>(input.count(2)),
                                       input.number<std::uint8_t>(), any_time(input)});
    return tables;
}

void check_graph(const LockGraph& graph) {
    require(graph.first_edge.size() == graph.sessions.size() + 1, "an entry for each session");
    for (SessionIndex s = 0; s < graph.sessions.size(); s++) {
        const Edge* before = nullptr;
        for (const Edge& edge : graph.blockers_of(s)) {
            require(edge.blocker < graph.sessions.size() && edge.blocker != s,
                    "a blocker that is one");
            require(before == nullptr || before->blocker < edge.blocker,
                    "each blocker once, ascending");
            before = &edge;
        }
    }
}

void check_forest(const LockGraph& graph, std::span<const ForestRow> rows) {
    std::vector<bool> seen(graph.sessions.size());
    std::uint32_t depth = 0;
    for (const ForestRow& row : rows) {
        require(row.session < seen.size() && !seen[row.session], "each session once");
        seen[row.session] = true;
        require(row.depth <= depth, "a row hangs under one before it");
        depth = row.depth + 1;
        require((row.depth == 0) == (row.parent == nullptr), "roots alone have no parent");
        require(row.parent == nullptr || seen[row.parent->blocker], "under a blocker");
        require(row.blocks <= graph.sessions.size(), "no more than there are");
        require(!has_control(row.tree, false), "a drawing of one line");
    }
    for (SessionIndex s = 0; s < graph.sessions.size(); s++)
        require(seen[s] || graph.blockers_of(s).empty(), "who waits is drawn");
}

void check_rings(const LockTable& table, Input& input, std::pmr::memory_resource& memory) {
    const SessionIndex target = input.index(static_cast<std::uint32_t>(table.sessions.size()));
    for (ChainRule rule : {ChainRule::any_wait, ChainRule::kept_waiting}) {
        const auto chains = find_chains(table, target, rule, memory);
        require(chains.size() == table.sessions.size(), "a chain for each session");
        const Ring ring = find_ring(chains, target, memory);
        require(ring.members.size() <= table.sessions.size(), "each member once");
        for (const RingMember& member : ring.members)
            require(member.session < table.sessions.size(), "members are sessions");
    }
}

void check_worker(const LockGraph& graph, Input& input, std::pmr::memory_resource& memory) {
    std::vector<SessionFacts> facts;
    for (std::uint32_t i = input.count(40); i > 0 && facts.size() < graph.sessions.size(); i--) {
        const auto bits = input.number<std::uint16_t>();
        SessionFacts fact = {};
        fact.client_backend = bits & 1;
        fact.superuser = bits & 2;
        fact.idle_in_transaction = bits & 4;
        fact.prepared = bits & 8;
        fact.stalled = bits & 16;
        fact.active = bits & 32;
        fact.exempt_role = bits & 64;
        fact.waiting_client = bits & 128;
        fact.committing = bits & 256;
        fact.state_start = any_time(input);
        fact.xact_start = any_time(input);
        fact.stalled_since = any_time(input);
        facts.push_back(fact);
    }
    std::vector<BlockedRequest> requests;
    for (std::uint32_t i = input.count(10); i > 0; i--)
        requests.push_back({input.index(static_cast<std::uint32_t>(graph.sessions.size())),
                            input.number<std::uint16_t>(), any_mode(input), any_time(input),
                            static_cast<Requester>(input.count(2)), input.flag()});
    BlockerLimits limits = {};
    limits.min_idle = input.number<std::int16_t>();
    limits.min_wait = input.number<std::int16_t>();
    limits.min_active = input.number<std::int16_t>();
    limits.stalled_clients = input.flag();
    limits.concurrently = input.flag();
    limits.cancel_active = input.flag();
    const Judgement judgement =
        judge_blockers(graph, facts, requests, limits, any_time(input), memory);
    for (const auto& list : {judgement.to_end, judgement.to_spare}) {
        for (const BlockerDecision& decision : list) {
            require(decision.victim < graph.sessions.size(), "a session");
            require(decision.request < requests.size(), "that blocks a request");
        }
    }
    for (const BlockerDecision& decision : judgement.to_end) {
        const SessionFacts& fact = facts.at(decision.victim);
        require(decision.spared == SpareReason::none, "nobody is ended who is spared");
        require(fact.client_backend && !fact.superuser && !fact.exempt_role && !fact.prepared &&
                    graph.sessions[decision.victim].pid > 0,
                "clients alone are ended");
        bool holds = false;
        for (const Edge& edge : graph.blockers_of(requests[decision.request].session))
            holds = holds || (edge.blocker == decision.victim && edge.holds);
        require(holds, "only who holds a conflicting lock");
    }
}

void check_mermaid(std::string_view text) {
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        require(line.starts_with("flowchart BT") || line.starts_with("    s") ||
                    line.starts_with("    classDef "),
                "a line of the diagram's own");
        // A label stands in one pair of quotes; what would be more is an entity.
        const auto quotes = std::count(line.begin(), line.end(), '"');
        require(quotes == 0 || quotes == 2, "a label keeps to its place");
    }
}

void check_pictures(const LockGraph& graph, std::span<const ForestRow> rows, Input& input,
                    std::pmr::memory_resource& memory) {
    std::vector<std::uint32_t> wants;
    for (std::size_t i = 0; i < graph.sessions.size(); i++)
        wants.push_back(input.count(3));
    PictureLimits limits = kPictureLimits;
    if (input.flag())
        limits = {2 + std::size_t{input.count(20)}, input.count(20)};
    const WaitPicture picture = compose_picture(graph, rows, wants, limits, memory);
    require(picture.nodes.size() <= limits.nodes, "as many nodes as there is room for");
    require(picture.edges.size() <= limits.edges, "as many edges as there is room for");
    std::vector<PictureLabel> labels;
    for (NodeIndex i = 0; i < picture.nodes.size(); i++) {
        const PictureNode& node = picture.nodes[i];
        require(node.above == kNoNode || node.above < i, "after the one that it hangs under");
        PictureLabel label = {};
        label.pid = graph.sessions[node.session].pid;
        label.tree = {input.text(), input.flag() ? input.text() : "", mode_name(input),
                      input.text(), input.number<std::int64_t>()};
        label.state = input.text();
        label.word = waiters_word(any_mode(input), input.flag());
        labels.push_back(label);
    }
    for (const PictureEdge& edge : picture.edges)
        require(edge.waiter < labels.size() && edge.blocker < labels.size(), "between nodes");
    const auto mermaid = diagram_text(picture, labels, DiagramFormat::mermaid, memory);
    require(!has_control(mermaid, true), "text alone");
    check_mermaid(mermaid);
    require(!has_control(diagram_text(picture, labels, DiagramFormat::dot, memory), true),
            "text alone");
    require(!has_control(picture_tree_text(picture, labels, memory), true), "text alone");
}

void check_tree_text(std::span<const ForestRow> rows, std::size_t sessions, Input& input,
                     std::pmr::memory_resource& memory) {
    std::vector<TreeLabel> labels(sessions);
    for (TreeLabel& label : labels)
        label = {input.text(), "", mode_name(input), input.text(), 0};
    const std::size_t limit = input.number<std::uint16_t>() % 4096;
    const std::string_view text = lock_tree_text(
        rows, labels, input.index(static_cast<std::uint32_t>(sessions)), limit, memory);
    require(text.size() <= limit, "within the limit");
    require(!has_control(text, true), "text alone");
}

} // namespace
} // namespace lockguard::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace lockguard;
    fuzz::Input input(data, size);
    fuzz::Memory memory(fuzz::successes(input));
    const fuzz::Tables tables = fuzz::read_tables(input);
    try {
        const core::LockGraph graph = core::build_lock_graph(tables.table(), memory);
        fuzz::check_graph(graph);
        const auto rows = core::grow_lock_forest(graph, tables.xact_starts, memory);
        fuzz::check_forest(graph, rows);
        if (!tables.sessions.empty())
            fuzz::check_rings(tables.table(), input, memory);
        fuzz::check_worker(graph, input, memory);
        fuzz::check_pictures(graph, rows, input, memory);
        fuzz::check_tree_text(rows, tables.sessions.size(), input, memory);
    } catch (const std::bad_alloc&) {
        return 0; // the one exception that the core may throw here
    }
    return 0;
}
