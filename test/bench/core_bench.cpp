// How long src/core takes from the lock table to the rows of the tree, for shapes that occur and
// for the worst ones. Prints edges and rows, too, so that figures can be compared.
#include "core/lock_forest.h"
#include "core/lock_graph.h"

#include "../unit/test_tables.h"

#include <benchmark/benchmark.h>

#include <memory_resource>
#include <random>
#include <vector>

namespace lockguard::core {
namespace {

/// Readers behind an ALTER TABLE that waits for one idle reader.
TableBuilder star(std::uint32_t sessions) {
    TableBuilder tables;
    tables.add_sessions(sessions);
    std::vector<Waiter> waiters;
    for (SessionIndex s = 1; s < sessions; ++s)
        waiters.push_back({s, s == 1 ? kAccessExclusive : kAccessShare});
    tables.lock({{0, mode_bit(kAccessShare)}}, waiters);
    return tables;
}

/// Everybody waits for the transaction before.
TableBuilder chain(std::uint32_t sessions) {
    TableBuilder tables;
    tables.add_sessions(sessions);
    for (SessionIndex s = 1; s < sessions; ++s)
        tables.lock({{s - 1, mode_bit(kExclusive)}}, {{s, kShare}});
    return tables;
}

/// Ten sessions that update the same row, many times: the first waits for the transaction, the
/// others for the tuple.
TableBuilder rows_of_ten(std::uint32_t sessions) {
    TableBuilder tables;
    tables.add_sessions(sessions);
    for (SessionIndex holder = 0; holder + 10 < sessions; holder += 11) {
        tables.lock({{holder, mode_bit(kExclusive)}}, {{holder + 1, kShare}});
        std::vector<Waiter> waiters;
        for (SessionIndex s = holder + 2; s <= holder + 10; ++s)
            waiters.push_back({s, kExclusive});
        tables.lock({{holder + 1, mode_bit(kExclusive)}}, waiters);
    }
    return tables;
}

/// Everybody wants ACCESS EXCLUSIVE: edges are quadratic by nature.
TableBuilder exclusive_queue(std::uint32_t sessions) {
    TableBuilder tables;
    tables.add_sessions(sessions);
    std::vector<Waiter> waiters;
    for (SessionIndex s = 1; s < sessions; ++s)
        waiters.push_back({s, kAccessExclusive});
    tables.lock({{0, mode_bit(kAccessShare)}}, waiters);
    return tables;
}

/// Ten random blockers for each session: among those before it, or among all (one big knot of
/// cycles).
TableBuilder random_blockers(std::uint32_t sessions, bool cycles) {
    std::mt19937 random(42);
    TableBuilder tables;
    tables.add_sessions(sessions);
    for (SessionIndex s = 1; s < sessions; ++s) {
        const std::uint32_t candidates = cycles ? sessions : s;
        std::vector<Holder> holders;
        for (int i = 0; i < 10; ++i)
            holders.push_back(
                {static_cast<SessionIndex>(random() % candidates), mode_bit(kRowExclusive)});
        tables.lock(holders, {{s, kShare}});
    }
    return tables;
}

TableBuilder random_acyclic(std::uint32_t sessions) {
    return random_blockers(sessions, false);
}

TableBuilder random_knot(std::uint32_t sessions) {
    return random_blockers(sessions, true);
}

void graph_and_forest(benchmark::State& state, TableBuilder (*shape)(std::uint32_t)) {
    const TableBuilder tables = shape(static_cast<std::uint32_t>(state.range(0)));
    const LockTable table = tables.table();
    std::size_t edges = 0;
    std::size_t rows = 0;
    for (auto _ : state) {
        std::pmr::monotonic_buffer_resource memory;
        const LockGraph graph = build_lock_graph(table, memory);
        const auto forest = grow_lock_forest(graph, {}, memory);
        benchmark::DoNotOptimize(forest.data());
        edges = graph.edges.size();
        rows = forest.size();
    }
    state.counters["edges"] = static_cast<double>(edges);
    state.counters["rows"] = static_cast<double>(rows);
}

void graph_alone(benchmark::State& state, TableBuilder (*shape)(std::uint32_t)) {
    const TableBuilder tables = shape(static_cast<std::uint32_t>(state.range(0)));
    const LockTable table = tables.table();
    for (auto _ : state) {
        std::pmr::monotonic_buffer_resource memory;
        benchmark::DoNotOptimize(build_lock_graph(table, memory).edges.data());
    }
}

void sizes(benchmark::internal::Benchmark* bench) {
    bench->Arg(200)->Arg(1000)->Arg(10000)->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(graph_and_forest, star, star)->Apply(sizes);
BENCHMARK_CAPTURE(graph_and_forest, chain, chain)->Apply(sizes);
BENCHMARK_CAPTURE(graph_and_forest, rows_of_ten, rows_of_ten)->Apply(sizes);
BENCHMARK_CAPTURE(graph_and_forest, random_acyclic, random_acyclic)->Apply(sizes);
BENCHMARK_CAPTURE(graph_and_forest, random_knot, random_knot)->Apply(sizes);
BENCHMARK_CAPTURE(graph_and_forest, exclusive_queue, exclusive_queue)
    ->Arg(200)
    ->Arg(1000)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(graph_alone, star, star)->Apply(sizes);
BENCHMARK_CAPTURE(graph_alone, random_acyclic, random_acyclic)->Apply(sizes);
BENCHMARK_CAPTURE(graph_alone, exclusive_queue, exclusive_queue)
    ->Arg(200)
    ->Arg(1000)
    ->Unit(benchmark::kMicrosecond);

} // namespace
} // namespace lockguard::core

BENCHMARK_MAIN();
