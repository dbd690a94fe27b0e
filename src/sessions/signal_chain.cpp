#include "sessions/signal_chain.h"

#include <algorithm>

namespace lockguard::pg {

namespace {

bool is_same_handler(const struct sigaction& left, const struct sigaction& right) {
    const bool with_info = (left.sa_flags & SA_SIGINFO) != 0;
    if (with_info != ((right.sa_flags & SA_SIGINFO) != 0))
        return false;
    return with_info ? left.sa_sigaction == right.sa_sigaction
                     : left.sa_handler == right.sa_handler;
}

bool is_in_front(const SignalChain& chain, const struct sigaction& present) {
    return (present.sa_flags & SA_SIGINFO) != 0 && present.sa_sigaction == chain.handler;
}

bool is_handler(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 ||
           (action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL);
}

} // namespace

bool is_signal_handled(int number) {
    struct sigaction present;
    return sigaction(number, nullptr, &present) == 0 && is_handler(present);
}

void enter_signal_chain(SignalChain* chain, const sigset_t& held) {
    struct sigaction present;
    if (sigaction(chain->number, nullptr, &present) != 0 || is_in_front(*chain, present))
        return;
    // Who is back has the same before him as he had.
    const bool is_back =
        chain->found_count > 0 && is_same_handler(chain->found[chain->found_count - 1], present);
    // Where so many have come, the last of them stays in front, and calls ours if he likes.
    if (!is_back && chain->found_count == SignalChain::kMaxFound)
        return;
    sigset_t before;
    sigprocmask(SIG_BLOCK, &held, &before);
    if (!is_back)
        chain->found[chain->found_count++] = present;
    struct sigaction ours = present;
    if (!is_handler(present)) {
        ours = {};
        sigemptyset(&ours.sa_mask);
        ours.sa_flags = SA_RESTART;
    }
    for (int number = 1; number < NSIG; number++) {
        if (sigismember(&held, number) == 1)
            sigaddset(&ours.sa_mask, number);
    }
    ours.sa_flags |= SA_SIGINFO;
    ours.sa_sigaction = chain->handler;
    sigaction(chain->number, &ours, nullptr);
    sigprocmask(SIG_SETMASK, &before, nullptr);
}

bool detail::begin_signal(SignalChain* chain, int number, siginfo_t* info, void* context,
                          siginfo_t* unknown) {
    const bool first = chain->calls == 0;
    chain->calls = chain->calls + 1;
    if (!first)
        return false;
    struct sigaction present;
    if (sigaction(number, nullptr, &present) == 0 && is_in_front(*chain, present)) {
        chain->info = info;
        chain->context = context;
    } else {
        *unknown = {};
        unknown->si_signo = number;
        chain->info = unknown;
        chain->context = nullptr;
    }
    return true;
}

void detail::end_signal(SignalChain* chain, int number, bool pass_on) {
    // The first call is for the latest who was found, the one that he makes for the one before. No
    // signal is lost where one of them has not returned to us.
    const int next = std::max(chain->found_count - chain->calls, 0);
    if (pass_on && is_handler(chain->found[next])) {
        if ((chain->found[next].sa_flags & SA_SIGINFO) != 0)
            chain->found[next].sa_sigaction(number, chain->info, chain->context);
        else
            chain->found[next].sa_handler(number);
    }
    chain->calls = chain->calls - 1;
}

} // namespace lockguard::pg
