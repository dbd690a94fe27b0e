// A handler of ours before those of others for the same signal. They may come later, and put
// themselves before ours: PostGIS does, when it is loaded, and calls ours from its own, without
// what the kernel says of the signal. So ours goes to the front again, may find itself called by
// whom it calls, and takes the kernel's word only where the kernel has called it.
#pragma once

#include <csignal>

#include "boundary/compat.h"

namespace lockguard::pg {

/// One for each signal, for the life of the process. Changed outside of the handler alone, but for
/// what the handler notes while it runs.
struct SignalChain {
    using Handler = void (*)(int number, siginfo_t* info, void* context);

    static constexpr int kMaxFound = 8;

    int number;      // of the signal
    Handler handler; // ours

    struct sigaction found[kMaxFound]; // before which it was put, one after the other
    int found_count;

    volatile sig_atomic_t calls; // of ours that have not returned
    siginfo_t* volatile info;    // what the kernel has said, while it runs
    void* volatile context;      // likewise
};

/// Puts ours to the front, where it is not. It holds off the signals of `held` as well.
void enter_signal_chain(SignalChain* chain, const sigset_t& held);

/// Is somebody there to whom the signal means something? Asked before ours is put there.
bool is_signal_handled(int number);

namespace detail {
/// Begins a call. Returns whether it is the first of this signal.
bool begin_signal(SignalChain* chain, int number, siginfo_t* info, void* context,
                  siginfo_t* unknown);
/// Ends it.
void end_signal(SignalChain* chain, int number, bool pass_on);
} // namespace detail

/// What ours does, with the arguments that it has got: serve(pid) once for each signal, with whom
/// it is from, 0 where that is unknown; and calls whoever is next where that returns true.
template <class Serve>
void handle_signal(SignalChain* chain, int number, siginfo_t* info, void* context, Serve&& serve) {
    const int saved_errno = errno;
    siginfo_t unknown;
    bool pass_on = true;
    if (detail::begin_signal(chain, number, info, context, &unknown))
        pass_on = serve(chain->info->si_pid);
    detail::end_signal(chain, number, pass_on);
    errno = saved_errno;
}

} // namespace lockguard::pg
