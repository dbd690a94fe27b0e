#include "core/blocker_order.h"

#include <algorithm>
#include <tuple>

namespace lockguard::core {

SeniorityOrder::SeniorityOrder(const LockGraph& graph, std::span<const Timestamp> xact_starts,
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

BlockerOrder::BlockerOrder(const LockGraph& graph, const SeniorityOrder& seniority,
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

void BlockerOrder::find_components(SessionIndex start) {
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

void BlockerOrder::open_session(SessionIndex session) {
    found_at_[session] = lowest_[session] = found_count_++;
    open_.push_back(session);
    steps_.push_back({session, graph_.first_edge[session]});
}

void BlockerOrder::close_component(SessionIndex entry) {
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

void BlockerOrder::append_cycle(std::span<SessionIndex> members) {
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

void BlockerOrder::walk_to(std::span<const SessionIndex> members, std::uint32_t member) {
    found_at_[members[member]] = 0;
    steps_.push_back({member, first_waiter_[member]});
}

void BlockerOrder::turn_round(std::span<const SessionIndex> members) {
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

} // namespace lockguard::core
