// Incidents: what one root did to others, followed from one look at the lock table to the next.
//
// A root is a session (or prepared transaction) that waits for nobody and keeps others waiting; of
// a ring of waits with nobody outside in its way, one member stands for it. While it has waiters it
// is a candidate; once one of them has waited behind it for long enough it is an incident, and has
// a number, until a look finds it without waiters.
//
// The same root is the same transaction of the same session, so that a pool's next transaction is
// another incident. What a session holds beyond its transactions (advisory locks) is held by the
// session: there the same wait that goes on behind it says that it is the same.
//
// What a look can't see is not made up: a wait counts from its start, or, where it began behind
// somebody else, from the look that found it behind this root; and up to the latest look that saw
// it.
#pragma once

#include "core/lock_forest.h"
#include "core/lock_graph.h"
#include "core/time.h"

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// Which transaction of which session, or which prepared transaction.
struct TransactionKey {
    std::int32_t procno;
    std::int32_t pid;   // 0 of a prepared transaction
    std::uint32_t lxid; // of a prepared transaction, its xid
    // Its virtual transaction id, which it keeps as it is prepared.
    std::int32_t vxid_number;
    std::uint32_t vxid_lxid;
    Timestamp xact_start; // kUnknownTime where it has none, or that is not known
};

/// What a look shows of a session of its graph.
struct SeenSession {
    TransactionKey key;
    Timestamp waits_since; // kUnknownTime where it does not wait, or that is not known
};

/// A look at the lock table.
struct IncidentLook {
    const LockGraph& graph;
    std::span<const ForestRow> rows;       // of the graph
    std::span<const SeenSession> sessions; // parallel to graph.sessions
    Timestamp at;
};

/// A session that waits behind a root, or has.
struct TrackedWaiter {
    std::int32_t procno;
    std::int32_t pid;
    std::uint32_t lxid;
    bool waiting;            // at the latest look
    bool direct;             // blocked by the root itself
    Timestamp since;         // the start of its wait, as seen
    Timestamp counted_from;  // since when that wait counts for this root
    Timestamp counted_until; // up to where it is in the total
};

inline constexpr std::uint32_t kNotTracked = UINT32_MAX;

/// A root that is followed.
struct TrackedRoot {
    TransactionKey root;
    std::int64_t id;    // of the incident; 0 of a candidate
    std::int32_t place; // the caller's: where it keeps the incident; -1 of one that is new to it
    Timestamp began;
    Timestamp seen_at;        // the latest look that saw it
    Timestamp seen_before;    // the look before that one
    std::uint32_t waiters;    // at the latest look that saw it
    std::uint32_t peak;       // the most of them
    std::uint32_t sessions;   // that have waited behind it, each once
    Microseconds time_waited; // all of them together
    Microseconds longest;     // one wait
    bool cycle;               // it stood for a ring, at the latest look that saw it
    bool closed;              // by the caller: what becomes of it is known; the next step drops it

    // Of the present look.
    SessionIndex session; // in its graph; kNotTracked where it is no root in it
    bool opened;          // it has just become an incident
    bool new_peak;        // more waiters than ever, or just opened
    std::uint32_t joined; // the root that it waits behind now, or that it was prepared as, by its
                          // place in `roots`; else kNotTracked
    std::uint32_t missed; // looks in a row that did not see it
    Timestamp missed_at;  // the first of them

    // Its waiters.
    std::uint32_t first_waiter;
    std::uint32_t waiter_count;
};

/// All that is followed: plain data.
struct IncidentState {
    std::span<TrackedRoot> roots;
    std::span<TrackedWaiter> waiters;
    Timestamp looked_at; // 0 before the first look
    std::int64_t last_id;

    std::span<TrackedWaiter> waiters_of(const TrackedRoot& root) const {
        return waiters.subspan(root.first_waiter, root.waiter_count);
    }
};

struct IncidentLimits {
    Microseconds min_wait;
    std::size_t roots; // followed at one time; those followed already and those with the most
                       // waiters come first
};

/// One look further. An incident that this look does not see is kept, with `session` kNotTracked,
/// as long as the caller does not close it; a candidate is kept for one look (somebody who waits
/// may be between two waits).
///
/// Where an incident's root waits now, `joined` says behind whom; that one is an incident then,
/// however short its own time. (Not at the first look at which a ring is none any more, whether a
/// look has seen it or not.)
///
/// \param before  is left as it is
/// \throws std::bad_alloc
IncidentState follow_incidents(const IncidentState& before, const IncidentLook& look,
                               const IncidentLimits& limits, std::pmr::memory_resource& memory);

} // namespace lockguard::core
