#include "core/wait_account.h"

#include "core/kept_array.h"

#include <algorithm>
#include <vector>

namespace lockguard::core {
namespace {

/// What the first sight of a wait adds.
///
/// \param gap      before the look
/// \param elapsed  of the wait, at the look
Microseconds first_sight(Microseconds gap, Microseconds elapsed, Microseconds next_gap) {
    if (elapsed >= gap)
        return gap; // it has been missed at the look before, for whatever reason
    if (next_gap <= 0)
        return elapsed;
    const Microseconds weight = gap - elapsed / next_gap * next_gap - next_gap / 2;
    return weight > 0 ? weight : gap / 2;
}

} // namespace

WaitAccount account_waits(std::span<const OpenWait> before, Timestamp looked_at,
                          std::span<const SampledWait> seen, Timestamp now, Microseconds next_gap,
                          std::pmr::memory_resource& memory) {
    KeptArray<OpenWait> open(seen.size(), memory);
    std::pmr::vector<WaitAddition> additions(&memory);
    additions.reserve(seen.size() + before.size());
    const Microseconds gap = std::max<Microseconds>(now - looked_at, 0);

    std::pmr::vector<std::uint32_t> order(seen.size(), 0, &memory);
    for (std::uint32_t i = 0; i < seen.size(); ++i)
        order[i] = i;
    std::sort(order.begin(), order.end(),
              [seen](std::uint32_t a, std::uint32_t b) { return seen[a].procno < seen[b].procno; });

    std::size_t earlier = 0;
    const auto note_end = [&](const OpenWait& wait) {
        additions.push_back({wait.key, 0, gap / 2, 0});
    };
    for (std::size_t i = 0; i < order.size(); ++i) {
        const SampledWait& wait = seen[order[i]];
        while (earlier < before.size() && before[earlier].procno < wait.procno)
            note_end(before[earlier++]);
        const Microseconds elapsed =
            wait.since == 0 ? 0 : std::max<Microseconds>(now - wait.since, 0);
        bool goes_on = false;
        if (earlier < before.size() && before[earlier].procno == wait.procno) {
            goes_on = before[earlier].since == wait.since;
            if (!goes_on)
                note_end(before[earlier]);
            ++earlier;
        }
        if (goes_on)
            additions.push_back({wait.key, 0, gap, elapsed});
        else if (looked_at == 0 || wait.announced)
            additions.push_back({wait.key, 1, elapsed, elapsed});
        else
            additions.push_back({wait.key, 1, first_sight(gap, elapsed, next_gap), elapsed});
        open[i] = {wait.procno, wait.since, wait.key};
    }
    while (earlier < before.size())
        note_end(before[earlier++]);

    KeptArray<WaitAddition> kept(additions.size(), memory);
    std::copy(additions.begin(), additions.end(), kept.data());
    return {open.keep(), kept.keep()};
}

} // namespace lockguard::core
