// Accumulated waits: what a series of looks at the lock table tells of how often, and how long,
// sessions have waited, by what for and for whom.
//
// Looks are samples. A wait's start is known exactly once it has been seen; its end lies between
// two looks; and waits that begin and end between two looks are missed. So that the sum is right on
// average all the same, the first sight of a wait counts for those that were missed, too:
//
// A wait of length L that begins in the gap g before a look, at a moment that has nothing to do
// with the looks, is seen with probability L/g, after a part e of it that is anything from 0 to L
// alike. From then on looks come every h: each further sight adds h, and half a gap is added when
// it is gone; that makes floor(r/h) h + h/2 for a rest r. The first sight adds w(e). For the sum to
// be L on average for each L,
//     1/g * integral from 0 to L of (w(e) + floor((L-e)/h) h + h/2) de = L,   hence
//     w(e) = g - (floor(e/h) + 1/2) h.
// Where g = h, this is plain sampling. A wait that announces itself (at low priority it wakes the
// worker) is never missed, and counts as it is.
#pragma once

#include "core/time.h"

#include <array>
#include <cstdint>
#include <memory_resource>
#include <span>

namespace lockguard::core {

/// What waits are added up by. Compared byte by byte: make it zeroed.
struct WaitKey {
    std::uint32_t database; // of the session that waits
    std::uint32_t relation_database;
    std::uint32_t relation;                   // 0 where it is not about one
    std::uint32_t blocker_role;               // 0 where unknown
    std::uint8_t lock_type;                   // as in LOCKTAG; kSafeSnapshotType
    std::uint8_t mode;                        // wanted; 0 for a safe snapshot
    std::array<char, 62> blocker_application; // cut; ends with a NUL

    bool operator==(const WaitKey&) const = default;
};
inline constexpr std::uint8_t kSafeSnapshotType = 255;

/// A wait as a look shows it.
struct SampledWait {
    std::int32_t procno; // of the process that waits
    Timestamp since;     // 0 where unknown
    bool announced;      // it could not be missed
    WaitKey key;
};

/// A wait that was seen at the latest look.
struct OpenWait {
    std::int32_t procno;
    Timestamp since;
    WaitKey key;
};

/// To be added to what is known.
struct WaitAddition {
    WaitKey key;
    std::uint32_t waits;
    Microseconds time;
    Microseconds longest; // of one wait, as far as it was seen
};

struct WaitAccount {
    std::span<const OpenWait> open;          // by procno
    std::span<const WaitAddition> additions; // a key may be there more than once
};

/// One look further.
///
/// \param before     open waits of the look before
/// \param looked_at  when that was; 0 where this look is the first
/// \param seen       in any order; at most one of a process
/// \param now        when this look was taken
/// \param next_gap   until the next look, as planned
/// \throws std::bad_alloc
WaitAccount account_waits(std::span<const OpenWait> before, Timestamp looked_at,
                          std::span<const SampledWait> seen, Timestamp now, Microseconds next_gap,
                          std::pmr::memory_resource& memory);

} // namespace lockguard::core
