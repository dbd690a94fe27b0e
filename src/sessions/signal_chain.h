// A handler of ours before those of others for the same signal. They may come later, and put theirs
// before ours: PostGIS does, when it is loaded, and calls ours from its own, with the number of the
// signal alone. A language may do so while a function of its runs, and restore what was there. So
// ours goes to the front again where nobody can be there for a while only, or nobody is but the
// server; it believes what looks like the kernel's word only where it can be, and calls each of the
// others once itself, so that it need not know whom they call.
//
// What is left: of a library that comes while a guarded statement runs, and passes nothing on, the
// signals are not seen until the next one begins. A process may have threads of others: what comes
// to one of those is sent on to its own.
#pragma once

#include <csignal>

#include "boundary/compat.h"

namespace lockguard::pg {

/// One for each signal, for the life of the process. Changed outside of handlers, with the signals
/// held off (sessions/cancel_round); but for `runs`.
struct SignalChain {
    using Handler = void (*)(int number, siginfo_t* info, void* context);

    static constexpr int kMaxOthers = 8;

    int number;               // of the signal
    Handler handler;          // ours
    bool only_before_another; // not where the signal is ignored, or ends the process

    struct sigaction others[kMaxOthers]; // before whom it was put, one after the other
    int other_count;

    volatile sig_atomic_t runs; // it does
};

/// Puts ours to the front, where it has never been, or where the server's is, so that nobody else
/// is in the chain. May be called anywhere.
void enter_signal_chain(SignalChain* chain);

/// Puts ours to the front, whoever is there. Not while a function of some language may run.
void lead_signal_chain(SignalChain* chain);

/// Is this the thread of PostgreSQL, in which alone anything is done? Safe in a handler.
bool is_main_thread();

namespace detail {
/// As long as it runs, other calls are of one of those whom it calls. False for those, and in a
/// thread of others.
bool begin_signal(SignalChain* chain);
/// `info`, or null where that may be anything.
siginfo_t* believed(const SignalChain& chain, siginfo_t* info);
/// Null: 0, unknown.
pid_t sender_of(const siginfo_t* info);
/// \param info  null where unknown
void call_others(const SignalChain& chain, siginfo_t* info, void* context);
void end_signal(SignalChain* chain);
} // namespace detail

/// What ours does, with the arguments that it has got, and with signals held off: serve(pid) once
/// for each signal, with whom it is from, 0 where that is unknown; and calls the others where that
/// returns true.
template <class Serve>
void handle_signal(SignalChain* chain, siginfo_t* info, void* context, Serve&& serve) {
    if (!detail::begin_signal(chain))
        return;
    siginfo_t* const known = detail::believed(*chain, info);
    if (serve(detail::sender_of(known)))
        detail::call_others(*chain, known, context);
    detail::end_signal(chain);
}

} // namespace lockguard::pg
