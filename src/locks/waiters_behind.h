// Who waits behind this session: who is kept waiting by it and since when, and whether a ring of
// waits leads through it.
//
// A glance at this session's own locks tells whether anybody waits for them at all; only then is
// the lock table copied. Neither reads a catalog or takes a heavyweight lock.
#pragma once

#include "core/time.h"

#include "boundary/compat.h"
#include "locks/kept_waiting_by.h"
#include "sessions/backend_status.h"

namespace lockguard::pg {

/// A record before the first look, in the current memory context. Nobody has been kept waiting for
/// longer than the transaction lasts.
BehindRecord* new_behind_record();

/// Whom a glance at this session's locks looks for.
enum class Behind {
    kept_waiting, // those that can be kept waiting: not for advisory locks, nor virtual
                  // transactions
    anybody,
};

/// Does anybody wait for a lock that this session holds, in its queue or at low priority, on a
/// conflict with what it holds? Nobody else can wait behind it who stands in no queue with it.
/// Next to nothing where it holds no lock, as in autocommit. Never ereports.
///
/// Takes partition locks of the lock table, LW_SHARED, one at a time: only those in which this
/// session has locks that are not in its fast-path slots, and only while anybody waits for a lock.
bool anybody_waits_for_us(Behind who);

/// A ring of waits through this session.
enum class RingState {
    none,
    closed_by_us,    // our wait began last: it is for us to end it
    closed_by_other, // somebody else's did: he will find it
};

struct WaitersBehind {
    std::uint32_t sessions;     // that are kept waiting
    core::Microseconds longest; // for so long
    RingState ring;
    SessionId ring_holder;   // on the ring, whom we wait for; if ring is not none
    SessionId ring_closer;   // on the ring, whose wait began last; likewise
    TimestampTz ring_closed; // when that was
    /// The closer waits at low priority, and so looks for rings himself; else it is his deadlock
    /// check that finds it, while we sleep on a holder's transaction.
    bool closer_looks;
    /// Of a ring that we closed, in the words of PostgreSQL's own report: a line for each member,
    /// and the same with the statements, for the server log. In the memory context of the call.
    const char* ring_detail;
    const char* ring_log_detail;
};

/// One look. What counts as kept waiting: clients and apply workers that stand in a queue, not
/// whose statement is at low priority itself, whatever it does at the moment.
///
/// For a ring, this session must have published its wait. A ring that we seem to have closed is
/// looked at until it is certain, for some milliseconds at most: somebody who tries to get his
/// locks may hold one for a moment only. Where it does not become certain, it is not told: the next
/// look sees it. Once it is told it lasts until one of its members gives up.
///
/// All but the two texts is allocated in a memory context of its own, which is gone in the end.
WaitersBehind look_behind(BehindRecord* record);

/// Raises 40P01 as PostgreSQL's own deadlock check does, for a ring that we closed. Counts it in
/// pg_stat_database.
[[noreturn]] void raise_deadlock(const WaitersBehind& behind);

} // namespace lockguard::pg
