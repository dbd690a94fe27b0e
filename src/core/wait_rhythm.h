// When a waiting statement does what else there is to do while it waits: looks whether its client
// is still there, whether anybody waits behind it, whether it stands in a ring; renews its
// transaction; rests. Pure, as core/wait_policy, which says what it waits for and for how long.
//
// All times are of one clock, which does not run back.
#pragma once

#include "core/wait_policy.h"

namespace lockguard::core {

/// A client that has gone is noticed within that time, and a transaction of the statement's own
/// does not last longer while it waits.
inline constexpr Microseconds kLongestSleep = 1'000'000;

/// A transaction that has lasted so many times as long as it should could not be renewed: something
/// is in the way, and will be.
inline constexpr int kNotRenewed = 3;

/// After a run in vain that has kept others waiting the next one, where it may end likewise, waits
/// so many times as long as they did: they wait for a fifth of the time at most.
inline constexpr Microseconds kRestAfterVainRun = 4;

/// Between two looks for a pg_repack that waits for this transaction.
inline constexpr Microseconds kRepackInterval = 1'000'000;

/// The least between two looks behind, or deadlock checks, however short the limits are.
inline constexpr Microseconds kShortestInterval = 10'000;
inline constexpr Microseconds kShortestCheckInterval = 100'000;

/// Of one statement. Plain data.
struct WaitRhythm {
    WaitLimits limits;
    bool in_transaction; // which had locks before, or is not the statement's own to end
    // Who waits behind it has waited for too long then; kUnknownTime: nobody waits.
    Timestamp patience_end;
    Timestamp transaction_began;
    Timestamp next_look_behind;
    Timestamp next_look_for_repack;
    Timestamp next_deadlock_check;
    Timestamp rest_end; // after a run in vain
};

static_assert(std::is_trivially_copyable_v<WaitRhythm> &&
              std::is_trivially_destructible_v<WaitRhythm>);

constexpr WaitRhythm start_rhythm(const WaitLimits& limits, bool in_transaction, Timestamp now) {
    WaitRhythm rhythm{};
    rhythm.limits = limits;
    rhythm.in_transaction = in_transaction;
    rhythm.transaction_began = now;
    rhythm.next_look_behind = rhythm.next_look_for_repack = rhythm.next_deadlock_check = now;
    rhythm.rest_end = now;
    rhythm.patience_end = kUnknownTime;
    return rhythm;
}

/// The longest sleep before there is something else to look after. Above 0. In a transaction that
/// others may come to wait for it is so short that whoever does is seen before his patience ends.
///
/// \param waited     so far, by the statement
/// \param until_due  until something that others have set: a notice to the client
Microseconds longest_sleep(const WaitRhythm& rhythm, Timestamp now, Microseconds waited,
                           Microseconds until_due);

/// Has it waited for so long that others expect something of it, as of anybody in a queue: that an
/// autovacuum worker is made to give way, that it is logged?
bool is_long_wait(const WaitRhythm& rhythm, Microseconds waited);

// Each of these, where it answers yes, has noted when it will be time for the next.

/// Is it time to look who waits behind?
bool is_time_to_look_behind(WaitRhythm& rhythm, Timestamp now);
/// Is it time for the server's own deadlock check? First after deadlock_timeout, as in any wait.
bool is_time_for_deadlock_check(WaitRhythm& rhythm, Timestamp now, Microseconds waited);
/// Is it time to look for a pg_repack that waits for the end of this transaction? Only where that
/// can't be renewed.
bool is_time_to_look_for_repack(WaitRhythm& rhythm, Timestamp now);

/// It has come to wait for another lock: whoever looks for rings must see it at once.
void waits_for_another_lock(WaitRhythm& rhythm, Timestamp now);
/// \param longest  that somebody has been kept waiting behind; negative where nobody is
void looked_behind(WaitRhythm& rhythm, Timestamp now, Microseconds longest);
/// Has somebody been kept waiting behind for longer than he may be?
bool has_kept_waiting_too_long(const WaitRhythm& rhythm, Microseconds longest);

/// How long a member sleeps on his place in a ring that somebody else has closed, whose own
/// deadlock check is to find it.
struct RingSleep {
    Microseconds duration; // above 0
    bool check_at_once;    // his check is overdue: it is ours
};
/// \param closed_for  time since the ring was closed
RingSleep sleep_in_ring(const WaitRhythm& rhythm, Timestamp now, Microseconds closed_for);

/// Is it time to end the transaction, where that can be done, and to begin another?
bool is_time_to_renew(const WaitRhythm& rhythm, Timestamp now);
void renewed(WaitRhythm& rhythm, Timestamp now);
/// Is the transaction one that can't be renewed? Also where that has been due for long and could
/// not be done.
bool outlives_rounds(const WaitRhythm& rhythm, Timestamp now);

/// The statement ran, and had to give back its locks; others were kept waiting for that long.
void ran_in_vain(WaitRhythm& rhythm, Timestamp now, Microseconds kept_waiting);
/// How long it has to rest, where its next run may end likewise; not beyond the deadline. 0 or
/// less: not at all.
Microseconds rest_left(const WaitRhythm& rhythm, Timestamp now);

} // namespace lockguard::core
