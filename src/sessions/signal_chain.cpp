#include "sessions/signal_chain.h"

#include <algorithm>
#include <span>

#include "sessions/cancel_round.h"

namespace lockguard::pg {

namespace {

/// As an address, whatever arguments it takes.
void* address_of(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 ? reinterpret_cast<void*>(action.sa_sigaction)
                                               : reinterpret_cast<void*>(action.sa_handler);
}

struct sigaction present_action(int number) {
    struct sigaction present = {};
    sigaction(number, nullptr, &present);
    return present;
}

/// In either form: who restores it by signal() has it called without what the kernel says.
bool is_ours(const SignalChain& chain, const struct sigaction& action) {
    return address_of(action) == reinterpret_cast<void*>(chain.handler);
}

bool is_handler(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 ||
           (action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL);
}

/// False where there are too many: then whoever is in front stays there.
bool add_other(SignalChain* chain, const struct sigaction& other) {
    const std::span<const struct sigaction> known(chain->others, chain->other_count);
    if (std::ranges::any_of(known, [&other](const struct sigaction& action) {
            return address_of(action) == address_of(other);
        }))
        return true;
    if (chain->other_count == SignalChain::kMaxOthers)
        return false;
    chain->others[chain->other_count++] = other;
    return true;
}

void go_to_front(SignalChain* chain, const struct sigaction& present) {
    if (!is_ours(*chain, present) && !add_other(chain, present))
        return;
    struct sigaction ours = {};
    ours.sa_mask = cancelling_signals();
    ours.sa_flags = SA_SIGINFO | SA_RESTART;
    ours.sa_sigaction = chain->handler;
    sigaction(chain->number, &ours, nullptr);
}

} // namespace

void enter_signal_chain(SignalChain* chain) {
    chain->runs = 0; // whoever was called has not returned
    if (chain->other_count > 0)
        return;
    hold_signals([chain] {
        chain->for_a_while = true;
        go_to_front(chain, present_action(chain->number));
    });
}

void lead_signal_chain(SignalChain* chain) {
    chain->runs = 0;
    const struct sigaction present = present_action(chain->number);
    if (is_ours(*chain, present) && (present.sa_flags & SA_SIGINFO) != 0) {
        chain->for_a_while = false;
        return;
    }
    hold_signals([chain, &present] {
        if (chain->for_a_while)
            chain->other_count = 0; // he has gone, and ours with him
        chain->for_a_while = false;
        go_to_front(chain, present);
    });
}

bool is_signal_handled(int number) {
    return is_handler(present_action(number));
}

bool detail::begin_signal(SignalChain* chain) {
    if (chain->runs != 0)
        return false;
    chain->runs = 1;
    return true;
}

pid_t detail::sender_of(const SignalChain& chain, const siginfo_t* info) {
    const struct sigaction present = present_action(chain.number);
    return is_ours(chain, present) && (present.sa_flags & SA_SIGINFO) != 0 ? info->si_pid : 0;
}

void detail::call_others(const SignalChain& chain, siginfo_t* info, void* context) {
    const struct sigaction present = present_action(chain.number);
    const bool in_front = is_ours(chain, present) && (present.sa_flags & SA_SIGINFO) != 0;
    siginfo_t unknown = {};
    unknown.si_signo = chain.number;
    for (int i = chain.other_count - 1; i >= 0; i--) {
        const struct sigaction& other = chain.others[i];
        if (!is_handler(other) || address_of(other) == address_of(present))
            continue; // who is in front has been called
        if ((other.sa_flags & SA_SIGINFO) == 0)
            other.sa_handler(chain.number);
        else if (in_front)
            other.sa_sigaction(chain.number, info, context);
        else
            other.sa_sigaction(chain.number, &unknown, nullptr);
    }
}

void detail::end_signal(SignalChain* chain) {
    chain->runs = 0;
}

} // namespace lockguard::pg
