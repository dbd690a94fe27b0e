#include "sessions/signal_chain.h"

#include <pthread.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "sessions/cancel_round.h"

extern "C" {
#include "tcop/tcopprot.h"
}

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

bool leads(const SignalChain& chain, const struct sigaction& present) {
    return is_ours(chain, present) && (present.sa_flags & SA_SIGINFO) != 0;
}

/// From PostgreSQL 17 on it has one for all signals, SIGUSR1 among them, which nobody else uses.
bool is_server_handler(const struct sigaction& action) {
    return address_of(action) == reinterpret_cast<void*>(StatementCancelHandler) ||
           address_of(action) == address_of(present_action(SIGUSR1));
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

/// The thread of PostgreSQL. Set before ours is put anywhere.
pthread_t main_thread;

void go_to_front(SignalChain* chain) {
    main_thread = pthread_self();
    hold_signals([chain] {
        const struct sigaction present = present_action(chain->number);
        if (chain->only_before_another && !is_handler(present))
            return; // somebody wants it so
        if (is_server_handler(present))
            chain->other_count = 0; // whoever came has gone, or the server's calls him
        if (!is_ours(*chain, present) && !add_other(chain, present))
            return;
        struct sigaction ours = {};
        ours.sa_mask = cancelling_signals();
        ours.sa_flags = SA_SIGINFO | SA_RESTART | (present.sa_flags & SA_ONSTACK);
        ours.sa_sigaction = chain->handler;
        sigaction(chain->number, &ours, nullptr);
    });
}

} // namespace

void enter_signal_chain(SignalChain* chain) {
    chain->runs = 0; // whoever was called has not returned
    const struct sigaction seen = present_action(chain->number);
    if (leads(*chain, seen))
        return;
    if (chain->other_count == 0 || is_server_handler(seen))
        go_to_front(chain);
}

void lead_signal_chain(SignalChain* chain) {
    chain->runs = 0;
    if (!leads(*chain, present_action(chain->number)))
        go_to_front(chain);
}

bool is_main_thread() {
    return pthread_equal(pthread_self(), main_thread) != 0;
}

bool detail::begin_signal(SignalChain* chain) {
    if (!is_main_thread()) {
        pthread_kill(main_thread, chain->number);
        return false;
    }
    if (chain->runs != 0)
        return false;
    chain->runs = 1;
    return true;
}

siginfo_t* detail::believed(const SignalChain& chain, siginfo_t* info) {
    // Somebody who was in front may have called it, who has restored it before. What the kernel
    // gives is not far up the stack: about as far as the registers take room.
    constexpr std::ptrdiff_t kFarthest = 16 * 1024;
    const auto distance = reinterpret_cast<std::intptr_t>(info) -
                          reinterpret_cast<std::intptr_t>(__builtin_frame_address(0));
    return leads(chain, present_action(chain.number)) && distance > 0 && distance < kFarthest &&
                   reinterpret_cast<std::uintptr_t>(info) % alignof(siginfo_t) == 0 &&
                   info->si_signo == chain.number
               ? info
               : nullptr;
}

pid_t detail::sender_of(const siginfo_t* info) {
    // From another thread: whoever has sent it there.
    return info == nullptr || info->si_code == SI_TKILL ? 0 : info->si_pid;
}

void detail::call_others(const SignalChain& chain, siginfo_t* info, void* context) {
    const struct sigaction present = present_action(chain.number);
    siginfo_t unknown = {};
    unknown.si_signo = chain.number;
    for (int i = chain.other_count - 1; i >= 0; i--) {
        const struct sigaction& other = chain.others[i];
        if (!is_handler(other) || address_of(other) == address_of(present))
            continue; // who is in front has been called
        if ((other.sa_flags & SA_SIGINFO) == 0)
            other.sa_handler(chain.number);
        else if (info != nullptr)
            other.sa_sigaction(chain.number, info, context);
        else
            other.sa_sigaction(chain.number, &unknown, nullptr);
    }
}

void detail::end_signal(SignalChain* chain) {
    chain->runs = 0;
}

} // namespace lockguard::pg
