// How the edges are found. The conflict table is asked from the blocker's side: sessions are
// visited in ascending order, and each hands itself to every waiter that it blocks. So every list
// comes out sorted, and a blocker that is found twice finds itself at the end of the list. Each
// queue is split by wanted mode beforehand, so that nobody is looked at who is not blocked.
//
// Entries that no lock table can contain are left out (core/lock_table).
#include "core/lock_graph.h"

#include "core/kept_array.h"
#include "core/lock_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <limits>
#include <new>
#include <vector>

namespace lockguard::core {
namespace {

LockMode strongest(ModeMask modes) {
    return static_cast<LockMode>(std::bit_width(modes) - 1);
}

/// Sums fit 32 bits in any result that fits memory; what does not must not wrap around.
std::uint32_t checked_count(std::uint64_t count) {
    if (count > std::numeric_limits<std::uint32_t>::max())
        throw std::bad_alloc();
    return static_cast<std::uint32_t>(count);
}

/// Turns counts into the first index of each slot; the last entry becomes the total.
void accumulate(std::span<std::uint32_t> counts) {
    std::uint64_t total = 0;
    for (std::uint32_t& count : counts) {
        const std::uint64_t next = total + count;
        count = checked_count(total);
        total = next;
    }
}

/// A waiter in the part of a queue that wants one mode.
struct Place {
    SessionIndex session;
    std::uint32_t position; // in the whole queue
};

/// A queue, split by wanted mode: those who want mode m are places[first[m]] up to
/// places[first[m + 1]], in queue order.
struct SplitQueue {
    std::array<std::uint32_t, kMaxLockMode + 1> first;
    ModeMask wanted; // the modes that anybody wants

    ModeMask conflicting_with_any(const Lock& lock) const {
        ModeMask conflicting = 0;
        for_each_mode(wanted, [&](LockMode mode) { conflicting |= conflicts_of(lock, mode); });
        return conflicting;
    }
};

/// Why a session may block: it holds modes of a lock, or it stands at a place of its queue.
struct Claim {
    std::uint32_t lock;
    std::uint32_t position; // kHolds for a holder
    ModeMask modes;         // held, or the one wanted
};
constexpr std::uint32_t kHolds = std::numeric_limits<std::uint32_t>::max();

class GraphBuilder {
  public:
    GraphBuilder(const LockTable& table, std::pmr::memory_resource& memory)
        : table_(table), memory_(memory), queues_(table.locks.size(), &memory), places_(&memory),
          first_claim_(table.sessions.size() + 1, 0, &memory), claims_(&memory), direct_(&memory),
          next_edge_(table.sessions.size(), &memory) {}

    LockGraph build() {
        split_queues();
        KeptArray<std::uint32_t> first_edge(table_.sessions.size() + 1, memory_);
        count_claims_and_edges(first_edge);
        collect_claims();
        collect_direct_waits();

        const std::size_t session_count = table_.sessions.size();
        KeptArray<Edge> edges(first_edge[session_count], memory_);
        first_edge_ = first_edge.data();
        edges_ = edges.data();
        std::copy_n(first_edge_, session_count, next_edge_.begin());
        for (SessionIndex session = 0; session < session_count; ++session)
            hand_to_waiters(session);
        const std::size_t edge_count = close_gaps(first_edge);

        return {table_.sessions, edges.keep().first(edge_count), first_edge.keep()};
    }

  private:
    /// Fills queues_ and places_. A lock that is left out gets an empty queue.
    void split_queues() {
        std::uint64_t place_count = 0;
        std::uint64_t claim_count = 0;
        for (const Lock& lock : table_.locks) {
            if (is_usable(table_, lock)) {
                place_count += lock.waiter_count;
                claim_count += std::uint64_t{lock.holder_count} + lock.waiter_count;
            }
        }
        checked_count(claim_count); // slices that overlap could count more than there are entries
        places_.resize(checked_count(place_count));

        std::uint32_t next_place = 0;
        for (std::size_t i = 0; i < table_.locks.size(); ++i) {
            const Lock& lock = table_.locks[i];
            SplitQueue& queue = queues_[i];
            queue.wanted = 0;
            queue.first.fill(0);
            if (!is_usable(table_, lock))
                continue;
            for (const Waiter& waiter : waiters_of(table_, lock)) {
                if (is_usable(table_, waiter)) {
                    queue.wanted |= mode_bit(waiter.wanted);
                    ++queue.first[waiter.wanted];
                }
            }
            for (std::uint32_t& first : queue.first) {
                const std::uint32_t count = first;
                first = next_place;
                next_place += count;
            }
            std::array<std::uint32_t, kMaxLockMode + 1> next = queue.first;
            std::uint32_t position = 0;
            for (const Waiter& waiter : waiters_of(table_, lock)) {
                if (is_usable(table_, waiter))
                    places_[next[waiter.wanted]++] = {waiter.session, position};
                ++position;
            }
        }
    }

    /// Makes room: first_claim_ becomes the first claim of each session, first_edge its first edge.
    /// The edges are counted as if nobody were found twice, which is exact but for sessions that
    /// hold and queue, and for lock groups with several members in one lock.
    void count_claims_and_edges(KeptArray<std::uint32_t>& first_edge) {
        const std::size_t session_count = table_.sessions.size();
        std::fill_n(first_edge.data(), session_count + 1, 0);

        for (std::size_t i = 0; i < table_.locks.size(); ++i) {
            const SplitQueue& queue = queues_[i];
            if (queue.wanted == 0)
                continue;
            const Lock& lock = table_.locks[i];
            const ModeMask conflicting = queue.conflicting_with_any(lock);

            std::array<std::uint32_t, kMaxLockMode> holders_against{};
            for (const Holder& holder : holders_of(table_, lock)) {
                if (!is_session(table_, holder.session) || (holder.held & conflicting) == 0)
                    continue;
                ++first_claim_[holder.session];
                for_each_mode(queue.wanted, [&](LockMode mode) {
                    holders_against[mode] += (holder.held & conflicts_of(lock, mode)) != 0 ? 1 : 0;
                });
            }

            std::array<std::uint32_t, kMaxLockMode> ahead{};
            for (const Waiter& waiter : waiters_of(table_, lock)) {
                if (!is_usable(table_, waiter))
                    continue;
                if ((mode_bit(waiter.wanted) & conflicting) != 0)
                    ++first_claim_[waiter.session];
                std::uint64_t count =
                    std::uint64_t{first_edge[waiter.session]} + holders_against[waiter.wanted];
                for_each_mode(conflicts_of(lock, waiter.wanted) & queue.wanted,
                              [&](LockMode mode) { count += ahead[mode]; });
                first_edge[waiter.session] = checked_count(count);
                ++ahead[waiter.wanted];
            }
        }
        for (const DirectWait& wait : table_.direct_waits) {
            if (is_usable(table_, wait))
                first_edge[wait.waiter] = checked_count(std::uint64_t{first_edge[wait.waiter]} + 1);
        }
        accumulate(first_claim_);
        accumulate({first_edge.data(), session_count + 1});
    }

    /// Fills claims_, grouped by session.
    void collect_claims() {
        claims_.resize(first_claim_.back());
        for (std::size_t i = 0; i < table_.locks.size(); ++i) {
            const SplitQueue& queue = queues_[i];
            if (queue.wanted == 0)
                continue;
            const Lock& lock = table_.locks[i];
            const ModeMask conflicting = queue.conflicting_with_any(lock);
            const auto lock_index = static_cast<std::uint32_t>(i);

            for (const Holder& holder : holders_of(table_, lock)) {
                if (is_session(table_, holder.session) && (holder.held & conflicting) != 0)
                    claims_[first_claim_[holder.session]++] = {lock_index, kHolds, holder.held};
            }
            std::uint32_t position = 0;
            for (const Waiter& waiter : waiters_of(table_, lock)) {
                if (is_usable(table_, waiter) && (mode_bit(waiter.wanted) & conflicting) != 0)
                    claims_[first_claim_[waiter.session]++] = {lock_index, position,
                                                               mode_bit(waiter.wanted)};
                ++position;
            }
        }
        // Every entry has moved to the start of the next session's claims: move them back.
        for (std::size_t i = first_claim_.size() - 1; i > 0; --i)
            first_claim_[i] = first_claim_[i - 1];
        first_claim_[0] = 0;
    }

    /// Fills direct_ with the usable direct waits, ascending by blocker.
    void collect_direct_waits() {
        direct_.reserve(table_.direct_waits.size());
        for (const DirectWait& wait : table_.direct_waits) {
            if (is_usable(table_, wait))
                direct_.push_back(wait);
        }
        std::sort(direct_.begin(), direct_.end(),
                  [](const DirectWait& a, const DirectWait& b) { return a.blocker < b.blocker; });
    }

    /// Appends the session to the list of everybody that it blocks.
    void hand_to_waiters(SessionIndex blocker) {
        for (std::uint32_t c = first_claim_[blocker]; c < first_claim_[blocker + 1]; ++c) {
            const Claim& claim = claims_[c];
            const Lock& lock = table_.locks[claim.lock];
            const SplitQueue& queue = queues_[claim.lock];
            for_each_mode(queue.wanted, [&](LockMode wanted) {
                const ModeMask conflicting = claim.modes & conflicts_of(lock, wanted);
                if (conflicting == 0)
                    return;
                const Edge edge{blocker, claim.position == kHolds, strongest(conflicting)};
                // From the end of the queue, so that the walk stops at those further ahead.
                for (std::uint32_t p = queue.first[wanted + 1]; p > queue.first[wanted]; --p) {
                    const Place& place = places_[p - 1];
                    if (!edge.holds && place.position <= claim.position)
                        break;
                    if (place.session != blocker)
                        add_edge(place.session, edge);
                }
            });
        }
        for (; next_direct_ < direct_.size() && direct_[next_direct_].blocker == blocker;
             ++next_direct_)
            add_edge(direct_[next_direct_].waiter, {blocker, true, direct_[next_direct_].held});
    }

    void add_edge(SessionIndex waiter, const Edge& edge) {
        std::uint32_t& next = next_edge_[waiter];
        if (next > first_edge_[waiter] && edges_[next - 1].blocker == edge.blocker) {
            Edge& known = edges_[next - 1];
            if (edge.holds != known.holds ? edge.holds : edge.mode > known.mode)
                known = edge;
            return;
        }
        edges_[next++] = edge;
    }

    /// Moves the lists together where fewer edges came out than there is room for. Returns how many
    /// there are.
    std::size_t close_gaps(KeptArray<std::uint32_t>& first_edge) {
        const std::size_t session_count = table_.sessions.size();
        std::uint32_t end = 0;
        for (std::size_t s = 0; s < session_count; ++s) {
            const std::uint32_t first = first_edge[s];
            const std::uint32_t count = next_edge_[s] - first;
            if (first != end && count > 0)
                std::copy_n(edges_ + first, count, edges_ + end);
            first_edge[s] = end;
            end += count;
        }
        first_edge[session_count] = end;
        return end;
    }

    const LockTable& table_;
    std::pmr::memory_resource& memory_;
    std::pmr::vector<SplitQueue> queues_; // parallel to table_.locks
    std::pmr::vector<Place> places_;
    std::pmr::vector<std::uint32_t> first_claim_; // of each session, and the end
    std::pmr::vector<Claim> claims_;
    std::pmr::vector<DirectWait> direct_;
    std::size_t next_direct_ = 0;
    std::pmr::vector<std::uint32_t> next_edge_; // of each session: the end of its list so far
    const std::uint32_t* first_edge_ = nullptr;
    Edge* edges_ = nullptr;
};

} // namespace

LockGraph build_lock_graph(const LockTable& table, std::pmr::memory_resource& memory) {
    return GraphBuilder(table, memory).build();
}

void mark_waiters_behind(const LockGraph& graph, SessionIndex session, std::span<bool> marks) {
    std::fill(marks.begin(), marks.end(), false);
    // Edges lead from waiter to blocker, and chains are short: to repeat the walk until nothing
    // changes is cheaper than to turn the edges round.
    for (bool changed = true; changed;) {
        changed = false;
        for (SessionIndex waiter = 0; waiter < graph.sessions.size(); ++waiter) {
            if (marks[waiter])
                continue;
            const auto edges = graph.blockers_of(waiter);
            marks[waiter] = std::any_of(edges.begin(), edges.end(), [&](const Edge& edge) {
                return edge.blocker == session || marks[edge.blocker];
            });
            changed |= marks[waiter];
        }
    }
}

} // namespace lockguard::core
