#include "core/graph_reach.h"

#include "core/kept_array.h"

#include <algorithm>

namespace lockguard::core {

LockGraph graph_behind(const LockGraph& graph, SessionIndex root,
                       std::pmr::memory_resource& memory) {
    const auto count = static_cast<SessionIndex>(graph.sessions.size());
    const Waiters waiters(graph, memory);
    Reach reach(count, memory);
    reach.from(root, [&waiters](SessionIndex session, auto visit) {
        for (const SessionIndex waiter : waiters.of(session))
            visit(waiter);
    });
    KeptArray<std::uint32_t> first_edge(std::size_t{count} + 1, memory);
    std::pmr::vector<Edge> kept(&memory);
    first_edge[0] = 0;
    for (SessionIndex s = 0; s < count; ++s) {
        if (reach.met(s)) {
            for (const Edge& edge : graph.blockers_of(s)) {
                if (reach.met(edge.blocker))
                    kept.push_back(edge);
            }
        }
        first_edge[std::size_t{s} + 1] = static_cast<std::uint32_t>(kept.size());
    }
    KeptArray<Edge> edges(kept.size(), memory);
    std::copy(kept.begin(), kept.end(), edges.data());
    return {graph.sessions, edges.keep(), first_edge.keep()};
}

} // namespace lockguard::core
