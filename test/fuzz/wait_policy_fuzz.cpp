// Histories of waits, as the caller's loop could make them, also with clocks and ages that make no
// sense: what is decided keeps to its limits.
#include "core/wait_policy.h"

#include "fuzz_input.h"

namespace lockguard::fuzz {
namespace {

using namespace core;

Microseconds any_duration(Input& input) {
    const auto byte = input.number<std::uint8_t>();
    switch (byte % 8) {
    case 0:
        return kUnknownTime;
    case 1:
        return input.number<std::int64_t>();
    case 2:
        return 0;
    default:
        return static_cast<Microseconds>(input.number<std::uint16_t>()) << (byte / 8 % 12);
    }
}

/// A step of time that does not run back, nor beyond what a clock can show.
Timestamp later(Timestamp now, Input& input) {
    constexpr Timestamp kEnd = Timestamp{1} << 60;
    return std::min(kEnd, now + (static_cast<Timestamp>(input.number<std::uint16_t>())
                                 << (input.number<std::uint8_t>() % 24)));
}

void check_decision(const WaitPolicy& policy, const WaitDecision& decision,
                    const HoldersSeen& present, Timestamp now) {
    if (decision.step == WaitStep::give_up) {
        require(decision.duration == 0 && policy.limits.deadline <= now,
                "gives up at its deadline");
        return;
    }
    require(decision.duration > 0, "a step takes time");
    require(policy.limits.deadline == kUnknownTime ||
                now + decision.duration <= policy.limits.deadline,
            "not beyond the deadline");
    if (decision.step == WaitStep::queue) {
        require(policy.limits.max_burst > 0 && decision.duration <= policy.limits.max_burst,
                "a burst is within max_burst");
        require(present.holders > 0, "no burst where nobody was seen");
    }
}

} // namespace
} // namespace lockguard::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace lockguard::core;
    using namespace lockguard::fuzz;
    Input input(data, size);
    WaitLimits limits = {};
    limits.max_burst = static_cast<Microseconds>(input.number<std::int32_t>()) * 1000;
    limits.deadlock_timeout = static_cast<Microseconds>(input.number<std::uint16_t>()) * 1000;
    Timestamp now = input.number<std::int32_t>();
    limits.deadline = input.flag() ? kUnknownTime : later(now, input);
    WaitPolicy policy = start_wait(limits, input.number<std::uint64_t>());
    for (int round = 0; round < 500 && !input.empty(); round++) {
        const HoldersSeen present = {input.number<std::uint8_t>(), any_duration(input),
                                     any_duration(input), input.count(7) == 0};
        const WaitDecision decision = decide(policy, present, now);
        check_decision(policy, decision, present, now);
        require(burst_length(policy) >= 0, "a burst is not negative");
        now = later(now, input);
        if (decision.step == WaitStep::queue)
            burst_ended(policy, now, any_duration(input), input.flag());
        if (decision.step == WaitStep::wait_for_holders) {
            for (std::uint32_t i = input.count(12); i > 0; i--)
                holder_ended(policy, any_duration(input));
        }
        if (input.count(15) == 0)
            kept_waiting(policy, now, any_duration(input));
    }
    return 0;
}
