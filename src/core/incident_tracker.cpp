#include "core/incident_tracker.h"

#include "core/graph_reach.h"
#include "core/kept_array.h"

#include <algorithm>
#include <vector>

namespace lockguard::core {
namespace {

using Indices = std::pmr::vector<std::uint32_t>;

/// Is that the same transaction? Where it is not known of both since when they are in it, the
/// numbers decide.
bool same_transaction(const TransactionKey& left, const TransactionKey& right) {
    return left.procno == right.procno && left.pid == right.pid && left.lxid == right.lxid &&
           (left.xact_start == right.xact_start || left.xact_start == kUnknownTime ||
            right.xact_start == kUnknownTime);
}

/// A root of the look.
struct SeenRoot {
    SessionIndex session;
    std::uint32_t before; // its place in the roots before; kNotTracked where it is new
    std::uint32_t blocks;
    bool cycle;
};

class Step {
  public:
    Step(const IncidentState& before, const IncidentLook& look, const IncidentLimits& limits,
         std::pmr::memory_resource& memory)
        : before_(before), look_(look), limits_(limits), memory_(memory),
          waiters_of_(look.graph, memory), reach_(look.graph.sessions.size(), memory),
          seen_(&memory), roots_(&memory), waiters_(&memory), root_of_(&memory) {}

    IncidentState take() {
        find_roots();
        for (const SeenRoot& seen : seen_)
            follow(seen);
        keep_unseen();
        for (TrackedRoot& root : roots_) {
            if (root.session == kNotTracked && root.id != 0)
                join(root);
        }
        number();
        KeptArray<TrackedRoot> roots(roots_.size(), memory_);
        KeptArray<TrackedWaiter> waiters(waiters_.size(), memory_);
        std::copy(roots_.begin(), roots_.end(), roots.data());
        std::copy(waiters_.begin(), waiters_.end(), waiters.data());
        return {roots.keep(), waiters.keep(), look_.at, last_id_};
    }

  private:
    const TransactionKey& key_of(SessionIndex session) const { return look_.sessions[session].key; }

    // ---- Who is a root, and since when

    /// Is the root of the look this one that was followed before?
    bool is_same(const TrackedRoot& tracked, SessionIndex session) const {
        const TransactionKey& key = key_of(session);
        if (tracked.closed || tracked.root.procno != key.procno || tracked.root.pid != key.pid)
            return false;
        if (same_transaction(tracked.root, key))
            return true;
        // A wait for what a transaction holds ends with it.
        if (key.pid == 0)
            return false;
        const auto waiters = before_.waiters_of(tracked);
        return std::any_of(waiters.begin(), waiters.end(), [&](const TrackedWaiter& waiter) {
            return waiter.waiting && waiter.direct && still_waits(waiter, session);
        });
    }

    /// Does that wait go on, behind this session itself, which holds what it is for?
    bool still_waits(const TrackedWaiter& waiter, SessionIndex root) const {
        const auto waiters = waiters_of_.of(root);
        return std::any_of(waiters.begin(), waiters.end(), [&](SessionIndex s) {
            const SeenSession& seen = look_.sessions[s];
            if (seen.key.procno != waiter.procno || seen.key.pid != waiter.pid ||
                seen.waits_since != waiter.since || seen.waits_since == kUnknownTime)
                return false;
            const auto edges = look_.graph.blockers_of(s);
            return std::any_of(edges.begin(), edges.end(), [root](const Edge& edge) {
                return edge.blocker == root && edge.holds;
            });
        });
    }

    std::uint32_t find_before(SessionIndex session) const {
        for (std::uint32_t i = 0; i < before_.roots.size(); ++i) {
            if (is_same(before_.roots[i], session))
                return i;
        }
        return kNotTracked;
    }

    /// Which member stands for the ring: the one that was followed already, the oldest of them;
    /// else the one that the lock tree has at the top.
    SeenRoot root_of_ring(const ForestRow& row) {
        SeenRoot root = {row.session, find_before(row.session), row.blocks, true};
        const auto members = reach_.from(row.session, [this](SessionIndex session, auto visit) {
            for (const Edge& edge : look_.graph.blockers_of(session))
                visit(edge.blocker);
        });
        for (const SessionIndex member : members) {
            const std::uint32_t before = find_before(member);
            if (before == kNotTracked)
                continue;
            if (root.before == kNotTracked ||
                before_.roots[before].began < before_.roots[root.before].began)
                root = {member, before, row.blocks, true};
        }
        return root;
    }

    void find_roots() {
        root_of_.assign(look_.graph.sessions.size(), kNotTracked);
        for (const ForestRow& row : look_.rows) {
            if (row.parent == nullptr && row.blocks > 0)
                seen_.push_back(row.deadlock ? root_of_ring(row)
                                             : SeenRoot{row.session, find_before(row.session),
                                                        row.blocks, false});
            root_of_[row.session] = row.root;
        }
        if (seen_.size() <= limits_.roots)
            return;
        std::stable_sort(seen_.begin(), seen_.end(), [](const SeenRoot& a, const SeenRoot& b) {
            if ((a.before == kNotTracked) != (b.before == kNotTracked))
                return b.before == kNotTracked;
            return a.blocks > b.blocks;
        });
        seen_.resize(limits_.roots);
    }

    // ---- What becomes of it

    void follow(const SeenRoot& seen) {
        TrackedRoot root = {};
        const TrackedRoot* earlier =
            seen.before == kNotTracked ? nullptr : &before_.roots[seen.before];
        if (earlier != nullptr) {
            root = *earlier;
        } else {
            root.place = -1;
            root.began = look_.at;
            root.seen_at = look_.at;
        }
        const Timestamp xact_start = root.root.xact_start;
        root.root = key_of(seen.session);
        if (root.root.xact_start == kUnknownTime && earlier != nullptr)
            root.root.xact_start = xact_start;
        root.seen_before = root.seen_at;
        root.seen_at = look_.at;
        root.session = seen.session;
        root.cycle = seen.cycle;
        root.opened = root.new_peak = false;
        root.joined = kNotTracked;
        root.missed = 0;
        root.first_waiter = static_cast<std::uint32_t>(waiters_.size());
        if (earlier != nullptr) {
            for (TrackedWaiter waiter : before_.waiters_of(*earlier)) {
                waiter.waiting = false;
                waiters_.push_back(waiter);
            }
        }
        count_waiters(&root);
        root.waiter_count = static_cast<std::uint32_t>(waiters_.size()) - root.first_waiter;
        roots_.push_back(root);
    }

    void count_waiters(TrackedRoot* root) {
        const auto behind = reach_.from(root->session, [this](SessionIndex session, auto visit) {
            for (const SessionIndex waiter : waiters_of_.of(session))
                visit(waiter);
        });
        const auto known_end = static_cast<std::ptrdiff_t>(waiters_.size());
        const auto known = waiters_.begin() + root->first_waiter;
        // By procno, to be found again: those kept before are in that order.
        const auto by_procno = [](const TrackedWaiter& waiter, std::int32_t procno) {
            return waiter.procno < procno;
        };
        std::pmr::vector<TrackedWaiter> added(&memory_);
        root->waiters = 0;
        for (const SessionIndex session : behind) {
            const SeenSession& seen = look_.sessions[session];
            if (session == root->session)
                continue;
            ++root->waiters;
            const auto end = waiters_.begin() + known_end;
            const auto place = std::lower_bound(known, end, seen.key.procno, by_procno);
            if (place != end && place->procno == seen.key.procno) {
                if (place->pid != seen.key.pid)
                    ++root->sessions;
                count_wait(root, session, &*place);
            } else {
                ++root->sessions;
                added.push_back({});
                count_wait(root, session, &added.back());
            }
        }
        waiters_.insert(waiters_.end(), added.begin(), added.end());
        std::sort(
            waiters_.begin() + root->first_waiter, waiters_.end(),
            [](const TrackedWaiter& a, const TrackedWaiter& b) { return a.procno < b.procno; });
        if (root->waiters > root->peak) {
            root->peak = root->waiters;
            root->new_peak = true;
        }
    }

    void count_wait(TrackedRoot* root, SessionIndex session, TrackedWaiter* waiter) {
        const SeenSession& seen = look_.sessions[session];
        const bool goes_on = waiter->pid == seen.key.pid && waiter->procno == seen.key.procno &&
                             waiter->since == seen.waits_since && waiter->counted_from != 0;
        if (!goes_on) {
            waiter->since = seen.waits_since;
            // A wait that is older than the look before began behind somebody else. (Nothing is
            // known of the time before the first look.)
            const bool own = seen.waits_since <= look_.at &&
                             (before_.looked_at == 0 || seen.waits_since > before_.looked_at);
            waiter->counted_from = own ? seen.waits_since : look_.at;
            waiter->counted_until = waiter->counted_from;
        }
        waiter->procno = seen.key.procno;
        waiter->pid = seen.key.pid;
        waiter->lxid = seen.key.lxid;
        waiter->waiting = true;
        const auto edges = look_.graph.blockers_of(session);
        waiter->direct = std::any_of(edges.begin(), edges.end(), [root](const Edge& edge) {
            return edge.blocker == root->session;
        });
        root->time_waited += std::max<Microseconds>(look_.at - waiter->counted_until, 0);
        waiter->counted_until = std::max(look_.at, waiter->counted_until);
        root->longest = std::max(root->longest, look_.at - waiter->counted_from);
        root->began = std::min(root->began, waiter->counted_from);
    }

    /// Those that the look does not see.
    void keep_unseen() {
        for (std::uint32_t i = 0; i < before_.roots.size(); ++i) {
            const TrackedRoot& earlier = before_.roots[i];
            const bool seen = std::any_of(seen_.begin(), seen_.end(),
                                          [i](const SeenRoot& root) { return root.before == i; });
            if (seen || earlier.closed || (earlier.id == 0 && earlier.missed > 0))
                continue;
            TrackedRoot root = earlier;
            root.session = kNotTracked;
            root.opened = root.new_peak = false;
            root.joined = kNotTracked;
            if (root.missed++ == 0)
                root.missed_at = look_.at;
            root.first_waiter = static_cast<std::uint32_t>(waiters_.size());
            const auto waiters = before_.waiters_of(earlier);
            waiters_.insert(waiters_.end(), waiters.begin(), waiters.end());
            roots_.push_back(root);
        }
    }

    /// Says behind whom an incident's root waits now, or as what it was prepared.
    void join(TrackedRoot& root) {
        const auto place_of = [this](SessionIndex session) {
            for (std::uint32_t i = 0; i < roots_.size(); ++i) {
                if (roots_[i].session == session)
                    return i;
            }
            return kNotTracked;
        };
        for (SessionIndex s = 0; s < look_.sessions.size(); ++s) {
            const TransactionKey& key = key_of(s);
            if (key.pid == 0 && root.root.pid != 0 && root.root.vxid_lxid != 0 &&
                key.vxid_lxid == root.root.vxid_lxid && key.vxid_number == root.root.vxid_number)
                root.joined = place_of(s);
            else if (same_transaction(root.root, key) && !look_.graph.blockers_of(s).empty())
                root.joined = place_behind(s);
        }
        // Who is chosen to end a deadlock waits no more, but for a moment still has its locks.
        if (root.missed == 1 && root.joined != kNotTracked &&
            (root.cycle || kept_waiting(root, roots_[root.joined])))
            root.joined = kNotTracked;
    }

    /// Did the root keep that one waiting at the latest look that saw it?
    bool kept_waiting(const TrackedRoot& root, const TrackedRoot& other) const {
        const auto first = waiters_.begin() + root.first_waiter;
        return std::any_of(first, first + root.waiter_count, [&](const TrackedWaiter& waiter) {
            return waiter.waiting && waiter.procno == other.root.procno &&
                   waiter.pid == other.root.pid;
        });
    }

    /// The root followed that the session waits behind: in the lock tree, where that one is
    /// followed; else any.
    std::uint32_t place_behind(SessionIndex session) {
        std::uint32_t found = kNotTracked;
        const auto blockers = reach_.from(session, [this](SessionIndex s, auto visit) {
            for (const Edge& edge : look_.graph.blockers_of(s))
                visit(edge.blocker);
        });
        for (std::uint32_t i = 0; i < roots_.size(); ++i) {
            const SessionIndex root = roots_[i].session;
            if (root == kNotTracked ||
                std::find(blockers.begin(), blockers.end(), root) == blockers.end())
                continue;
            if (found == kNotTracked || root == root_of_[session])
                found = i;
        }
        return found;
    }

    /// Candidates that have become incidents get their numbers.
    void number() {
        last_id_ = before_.last_id;
        for (std::uint32_t i = 0; i < roots_.size(); ++i) {
            TrackedRoot& root = roots_[i];
            if (root.id != 0 || root.session == kNotTracked)
                continue;
            const bool forced =
                std::any_of(roots_.begin(), roots_.end(), [i](const TrackedRoot& other) {
                    return other.id != 0 && other.joined == i;
                });
            if (root.longest < limits_.min_wait && !forced)
                continue;
            root.id = ++last_id_;
            root.opened = root.new_peak = true;
            root.peak = root.waiters;
        }
    }

    const IncidentState& before_;
    const IncidentLook& look_;
    const IncidentLimits& limits_;
    std::pmr::memory_resource& memory_;
    Waiters waiters_of_;
    Reach reach_;
    std::pmr::vector<SeenRoot> seen_;
    std::pmr::vector<TrackedRoot> roots_;
    std::pmr::vector<TrackedWaiter> waiters_;
    Indices root_of_; // of each session in the lock tree
    std::int64_t last_id_ = 0;
};

} // namespace

IncidentState follow_incidents(const IncidentState& before, const IncidentLook& look,
                               const IncidentLimits& limits, std::pmr::memory_resource& memory) {
    return Step(before, look, limits, memory).take();
}

} // namespace lockguard::core
