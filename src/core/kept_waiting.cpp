#include "core/kept_waiting.h"

#include <algorithm>
#include <tuple>

namespace lockguard::core {
namespace {

bool comes_before(const KeptWaiting& left, const KeptWaiting& right) {
    return std::tie(left.procno, left.pid, left.wait_start) <
           std::tie(right.procno, right.pid, right.wait_start);
}

} // namespace

void start_record(KeptWaitingRecord& record, Timestamp earliest) {
    record.earlier_look = earliest;
    record.count = 0;
}

void note_look(KeptWaitingRecord& record, std::span<KeptWaiting> waits, Timestamp look) {
    const auto known_end = record.waits.begin() + record.count;
    for (KeptWaiting& wait : waits) {
        const auto known = std::lower_bound(record.waits.begin(), known_end, wait, comes_before);
        // By now he may wait through others than before: he has been kept waiting all the same.
        wait.since = known != known_end && !comes_before(wait, *known)
                         ? known->since
                         : std::max(wait.since, record.earlier_look);
    }

    const std::size_t count = std::min(waits.size(), KeptWaitingRecord::kRoom);
    std::nth_element(
        waits.begin(), waits.begin() + static_cast<std::ptrdiff_t>(count), waits.end(),
        [](const KeptWaiting& left, const KeptWaiting& right) { return left.since < right.since; });
    std::copy_n(waits.begin(), count, record.waits.begin());
    record.count = static_cast<std::uint32_t>(count);
    std::sort(record.waits.begin(), record.waits.begin() + record.count, comes_before);
    record.earlier_look = look;
}

} // namespace lockguard::core
