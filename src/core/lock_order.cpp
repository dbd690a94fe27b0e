// How the chains are found: as the shortest paths of a graph are (Bellman and Ford), with the
// latest wait of a path for its length. The edges are never written down. Each queue is walked from
// its head: who stands in it is blocked by the best of those that hold a conflicting mode, and by
// the best of those ahead that want one; both are known, by mode, when its turn comes. So one walk
// goes all the way through a queue, and further walks are needed only for chains that lead from one
// lock to another. It ends: every change makes a chain complete earlier.
//
// The `next` of the sessions never lead round in a circle that leaves out the target: a session is
// never complete earlier than the next one, and a chain changes only when it becomes complete
// earlier than it was.
#include "core/lock_order.h"

#include "core/kept_array.h"
#include "core/lock_table.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace lockguard::core {
namespace {

/// Before every wait: the target need not wait for itself.
constexpr Timestamp kAlways = INT64_MIN;

constexpr Chain kNoChain = {kUnknownTime, 0, 0, 0};

class ChainFinder {
  public:
    ChainFinder(const LockTable& table, SessionIndex target, ChainRule rule,
                std::pmr::memory_resource& memory)
        : table_(table), target_(target), rule_(rule), chains_(table.sessions.size(), memory) {
        std::fill_n(chains_.data(), table.sessions.size(), kNoChain);
    }

    std::span<const Chain> find() {
        if (is_session(table_, target_)) {
            do {
                changed_ = false;
                walk_all();
            } while (changed_);
            is_last_walk_ = true;
            walk_all();
        }
        return chains_.keep();
    }

  private:
    /// What a waiter gains by a blocker: that one's chain.
    struct Offer {
        SessionIndex blocker;
        Chain chain;
    };
    static constexpr Offer kNoOffer = {0, kNoChain};

    bool is_earlier(const Chain& left, const Chain& right) const {
        if (left.complete != right.complete || !left.exists())
            return left.complete < right.complete;
        return table_.sessions[left.last].pid < table_.sessions[right.last].pid;
    }

    bool may_lead_on(WaitKind kind) const {
        return rule_ == ChainRule::any_wait || kind != WaitKind::arranged;
    }

    bool may_end(WaitKind kind) const {
        return rule_ == ChainRule::any_wait || kind == WaitKind::data;
    }

    Offer offer_of(SessionIndex blocker, WaitKind kind) {
        if (blocker != target_)
            return {blocker, chains_[blocker]};
        // In the last walk the target looks for others that lead back to it.
        if (is_last_walk_ || !may_end(kind))
            return kNoOffer;
        return {blocker, {kAlways, target_, target_, 0}};
    }

    void take_better(Offer& best, const Offer& offer) const {
        if (is_earlier(offer.chain, best.chain))
            best = offer;
    }

    void walk_all() {
        for (const Lock& lock : table_.locks) {
            if (lock.waiter_count > 0 && is_usable(table_, lock) && may_lead_on(lock.kind))
                walk_queue(lock);
        }
        for (const DirectWait& wait : table_.direct_waits) {
            if (is_usable(table_, wait) && may_lead_on(wait.kind))
                accept(wait.waiter, wait.since, wait.wait, offer_of(wait.blocker, wait.kind));
        }
    }

    void walk_queue(const Lock& lock) {
        const auto waiters = waiters_of(table_, lock);
        ModeMask wanted = 0;
        for (const Waiter& waiter : waiters) {
            if (is_usable(table_, waiter))
                wanted |= mode_bit(waiter.wanted);
        }
        std::array<Offer, kMaxLockMode> of_holders; // to who wants that mode
        std::array<Offer, kMaxLockMode> of_ahead;   // by who wants that mode
        of_holders.fill(kNoOffer);
        of_ahead.fill(kNoOffer);
        for (const Holder& holder : holders_of(table_, lock)) {
            if (!is_session(table_, holder.session))
                continue;
            const Offer offer = offer_of(holder.session, lock.kind);
            if (!offer.chain.exists())
                continue;
            for_each_mode(wanted, [&](LockMode mode) {
                if ((holder.held & conflicts_of(lock, mode)) != 0)
                    take_better(of_holders[mode], offer);
            });
        }
        for (const Waiter& waiter : waiters) {
            if (!is_usable(table_, waiter))
                continue;
            Offer best = of_holders[waiter.wanted];
            for_each_mode(conflicts_of(lock, waiter.wanted) & wanted,
                          [&](LockMode mode) { take_better(best, of_ahead[mode]); });
            accept(waiter.session, waiter.since, waiter.wait, best);
            take_better(of_ahead[waiter.wanted], offer_of(waiter.session, lock.kind));
        }
    }

    /// A session of which several processes wait may be offered its own chain, which never makes
    /// it complete earlier.
    void accept(SessionIndex waiter, Timestamp since, std::uint32_t wait, const Offer& offer) {
        if (!offer.chain.exists() || (waiter == target_) != is_last_walk_)
            return;
        Chain chain = {std::min(since, kUnknownTime - 1), waiter, offer.blocker, wait};
        if (is_earlier(chain, offer.chain)) {
            chain.complete = offer.chain.complete;
            chain.last = offer.chain.last;
        }
        if (is_earlier(chain, chains_[waiter])) {
            chains_[waiter] = chain;
            changed_ = true;
        }
    }

    const LockTable& table_;
    const SessionIndex target_;
    const ChainRule rule_;
    KeptArray<Chain> chains_; // the target's own is empty until the last walk
    bool changed_ = false;
    bool is_last_walk_ = false;
};

} // namespace

std::span<const Chain> find_chains(const LockTable& table, SessionIndex target, ChainRule rule,
                                   std::pmr::memory_resource& memory) {
    return ChainFinder(table, target, rule, memory).find();
}

Ring find_ring(std::span<const Chain> chains, SessionIndex self,
               std::pmr::memory_resource& memory) {
    if (self >= chains.size() || !chains[self].exists())
        return {{}, self, kUnknownTime};
    std::size_t count = 1;
    for (SessionIndex member = chains[self].next; member != self; member = chains[member].next)
        ++count;
    KeptArray<RingMember> members(count, memory);
    SessionIndex member = self;
    for (std::size_t i = 0; i < count; ++i, member = chains[member].next)
        members[i] = {member, chains[member].wait};
    return {members.keep(), chains[self].last, chains[self].complete};
}

} // namespace lockguard::core
