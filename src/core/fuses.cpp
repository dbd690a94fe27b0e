#include "core/fuses.h"

#include <algorithm>

namespace lockguard::core {

namespace {
constexpr Microseconds kMinute = 60 * 1000 * 1000;
} // namespace

bool fuse_allows(const TerminationFuse& fuse, std::uint32_t limit, Microseconds now) {
    std::uint32_t within_a_minute = 0;
    for (std::uint32_t i = 0; i < fuse.count; ++i) {
        if (fuse.ended_at[i] > now - kMinute)
            ++within_a_minute;
    }
    return within_a_minute < limit;
}

void note_termination(TerminationFuse& fuse, Microseconds now) {
    fuse.ended_at[fuse.next] = now;
    fuse.next = (fuse.next + 1) % kMostTerminationsPerMinute;
    fuse.count = std::min(fuse.count + 1, kMostTerminationsPerMinute);
}

bool request_fuse_holds(const RequestFuse& fuse, std::int32_t pid, Timestamp wait_start,
                        Microseconds min_wait, Microseconds now) {
    return fuse.pid != 0 && fuse.pid == pid && fuse.wait_start == wait_start &&
           fuse.ended_at > now - min_wait;
}

} // namespace lockguard::core
