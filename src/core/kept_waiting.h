// Who is kept waiting by a session, and since when.
//
// A session is kept waiting from the moment when it waits, directly or through others, for a
// relation that the other's transaction has locked or for which it stands in the queue, or for a
// row that it has locked; not before. What one look at the lock table shows says the most of that
// (core/lock_order, ChainRule::kept_waiting): not, however, that somebody has waited for a lock for
// long, held by a third, before the one asked for has locked the same. For that a record of the
// looks before is kept: nobody is counted from a moment at which an earlier look has seen that he
// was not kept waiting.
#pragma once

#include "core/lock_graph.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace lockguard::core {

/// A wait that keeps somebody waiting. The same process, in the same wait, is the same at each
/// look.
struct KeptWaiting {
    std::int32_t procno;
    std::int32_t pid;
    Timestamp wait_start;
    Timestamp since; // when he began to be kept waiting
};

/// What the looks so far have seen. Plain data.
struct KeptWaitingRecord {
    /// Of more than that, those are remembered that have been kept waiting for longest. The others
    /// count from the look before the present one; so the longest time stays right as long as one
    /// of those that are remembered goes on waiting.
    static constexpr std::size_t kRoom = 200;

    Timestamp earlier_look; // who is not remembered was not kept waiting then
    std::uint32_t count;
    std::array<KeptWaiting, kRoom> waits; // ascending by procno, pid and start
};

/// A record before the first look.
///
/// \param earliest  nobody has been kept waiting since before: when the transaction began
void start_record(KeptWaitingRecord& record, Timestamp earliest);

/// Enters a look, and sets `since` of each of the waits to what the looks before leave of it. The
/// waits come out in another order. Never throws.
///
/// \param waits  all that are kept waiting; `since` is when the chain was complete
/// \param look   when the lock table was copied
void note_look(KeptWaitingRecord& record, std::span<KeptWaiting> waits, Timestamp look);

/// Whoever must not keep others waiting for longer than a limit is looked at a few times in the
/// length of that, within these bounds.
inline constexpr Microseconds kShortestLookPeriod = 10 * kMillisecond;
inline constexpr Microseconds kLongestLookPeriod = 100 * kMillisecond;

/// From one of these looks to the next.
constexpr Microseconds look_period(Microseconds limit) {
    return std::clamp(limit / 4, kShortestLookPeriod, kLongestLookPeriod);
}

} // namespace lockguard::core
