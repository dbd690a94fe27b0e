// What a low-priority waiter does next. Pure: what was seen of the holders in, the next step out.
//
// A guarded statement at low priority stands in no queue: it tries all its locks conditionally, and
// when that fails it sleeps until the present holders' transactions end, and tries again (a round).
// Where transactions overlap without a gap that never succeeds; then it queues for a short, bounded
// burst, during which newcomers wait behind it, but only while the holders in its way promise to be
// gone before the burst ends.
//
// What promises that is how the transactions before them ended. How long a burst must be need not
// be guessed: the time from a failed attempt until the last of the holders it saw is gone is
// exactly the time that a burst in place of that round would have taken. And how old holders are
// when they end says which of the present ones are not like them: a session that sits idle in its
// transaction becomes older than those that are seen to end, whatever it does. Whether a session is
// idle at this instant says nothing: transactions that are short are short also while their client
// thinks.
//
// So the last few rounds are remembered, and they answer three questions: how long a burst must be,
// whether one within the limit promises anything at all, and with whom in the way it does not.
//
// The caller's loop:
//
//   try all locks conditionally, or, after `queue`, in their queues
//   decide(policy, what is in the way, now)
//   wait_for_holders: sleep, holder_ended() for each that is seen to end, then try again
//   back_off: sleep, then try again
//   queue: burst_ended(policy, now, time spent in queues, got the locks?)
#pragma once

#include "core/lock_graph.h"
#include "core/time.h"

#include <array>
#include <cstdint>
#include <type_traits>

namespace lockguard::core {

/// Bounds that settings and the session put on the waiting.
struct WaitLimits {
    /// pg_lockguard.ddl_lock_timeout: the longest stay in queues at one time; 0 or less: never
    /// queue.
    Microseconds max_burst;
    /// PostgreSQL's deadlock_timeout: who waits longer makes an autovacuum worker give way.
    Microseconds deadlock_timeout;
    /// End of the whole wait, on the clock of `now` below; kUnknownTime where there is none.
    Timestamp deadline;
};

/// What an attempt that did not get its locks saw of those who hold them.
struct HoldersSeen {
    std::uint32_t holders;   // sessions that hold a conflicting lock; 0 where none was found
    Microseconds oldest_age; // of their transactions; kUnknownTime where one is unknown or prepared
    Microseconds next_age;   // of the second oldest; 0 where there is none
    bool autovacuum;         // one is an autovacuum worker that gives way to who waits long
};

enum class WaitStep : std::uint8_t {
    wait_for_holders, // sleep until the present holders' transactions end, at most `duration`
    back_off,         // sleep for `duration`: nobody to wait for was found
    queue,            // stand in the queue of one lock, at most `duration`; the others must be free
    give_up,          // the deadline has passed; `duration` is 0
};

/// The duration is above 0 (but for give_up) and never reaches beyond the deadline.
struct WaitDecision {
    WaitStep step;
    Microseconds duration;
};

/// The shortest burst, unless max_burst is shorter: known to work for transactions of 20 ms.
inline constexpr Microseconds kShortestBurst = 25'000;

/// No burst before so many transactions were seen to end in rounds outside the queue, ...
inline constexpr std::uint32_t kManyEnds = 8;
/// ... or, where they are few and slow, before so many rounds that took so long together, ...
inline constexpr std::uint32_t kFewRounds = 2;
inline constexpr Microseconds kSlowTime = 500'000;
/// ... or before so many rounds, where there is hope of a gap, or where long transactions end.
inline constexpr std::uint32_t kManyRounds = 5;

/// A round tells nothing of the others where somebody ended in it who was so many times as old as
/// who was the oldest in most of them.
inline constexpr int kFarOlder = 4;

/// A holder is not older than those seen to end, if it is at most this much older: the machine is
/// not always as quick as it was then. (At least; and a quarter.)
inline constexpr Microseconds kAgeSlack = 5'000;

/// After a burst that failed, or cost others time for nothing, the next one waits at least this
/// many times as long as the last one took: queued at most a fifth of the time. The factor doubles
/// with each failure; with 500 ms bursts the last value means one a minute.
inline constexpr Microseconds kRestFactor = 4;
inline constexpr Microseconds kMaxRestFactor = 128;

/// A burst is long enough for a transaction that has only just begun and becomes as old as those
/// seen, and an eighth: a round tells what was left of its transactions, by luck, and of the next
/// ones more may be left. But not where they become more than so many times as old as the longest
/// round took: there the lock is taken late in a transaction, and its age says little.
inline constexpr Microseconds kLongerByAge = 2;

/// Bounds of the time until the next attempt while holders stay, doubling while they do. (Within it
/// the statement looks after other things, and glances whether the lock has been given back before
/// the end of a transaction: core/wait_rhythm. An attempt costs more than that.)
inline constexpr Microseconds kFirstHolderWait = 250'000;
inline constexpr Microseconds kMaxHolderWait = 2'000'000;

/// Sleeps where no holder was found: 1, 2, 4, 8, 10 ms and so on, and after so many (about a
/// second) the last bound, which costs below 0.2 % of a core.
inline constexpr Microseconds kFirstBackOff = 1'000;
inline constexpr Microseconds kMaxBackOff = 10'000;
inline constexpr std::uint32_t kLongBackOffAfter = 100;
inline constexpr Microseconds kLongBackOff = 50'000;

/// The state of one wait. Plain data that needs no destructor, as it lives across calls that
/// longjmp.
struct WaitPolicy {
    WaitLimits limits;

    // To report.
    std::uint32_t attempts;    // that failed: calls of decide()
    std::uint32_t bursts;      // decided
    std::uint32_t failures;    // of those
    Microseconds longest_stay; // in queues at one time: nobody was kept waiting longer than this
    Microseconds total_stay;   // in queues

    /// A round: from an attempt that failed until those who held the lock were gone.
    struct Round {
        Microseconds took;   // a burst in its place would have had to be that long
        Microseconds oldest; // how old a holder's transaction was at its end, at most
        std::uint32_t ends;  // of transactions that were seen
    };
    static constexpr std::uint32_t kRemembered = 8;
    std::array<Round, kRemembered> seen; // a ring
    std::uint32_t rounds;                // all that were seen

    // The sleep that decide() ordered last.
    Timestamp sleep_start;
    Microseconds sleep_bound;  // 0: none on holders
    std::uint32_t vain_sleeps; // in a row, that ended without the holders ending
    std::uint32_t back_offs;   // in a row
    bool measuring;            // the sleep belongs to a round that is being measured ...
    Timestamp round_start;     // ... since
    Round round;               // what is known of it so far; `took` is not
    bool old_holder;           // there was one then whose age alone was beyond every burst

    // Bursts.
    Microseconds shortest_burst; // raised by failures
    Timestamp rest_end;          // no burst before
    std::uint64_t random;        // state of a xorshift generator, never 0
};

static_assert(std::is_trivially_copyable_v<WaitPolicy> &&
              std::is_trivially_destructible_v<WaitPolicy>);

/// \param seed  for the jitter of the rests; any value, better not the same in two sessions
constexpr WaitPolicy start_wait(const WaitLimits& limits, std::uint64_t seed) {
    WaitPolicy policy{};
    policy.limits = limits;
    policy.shortest_burst = kShortestBurst;
    policy.rest_end = INT64_MIN;
    // Spread the bits of small seeds such as pids; xorshift cannot leave 0.
    policy.random = (seed + 1) * 0x9E3779B97F4A7C15U;
    if (policy.random == 0)
        policy.random = 1;
    return policy;
}

/// The next step after an attempt that failed.
///
/// A burst is ordered only where all of these hold; else the waiter sleeps outside the queue:
/// - holders were found, and none is an autovacuum worker, which a burst shorter than
///   deadlock_timeout does not move;
/// - none of their transactions is older than those that were seen to end;
/// - at least half of the rounds remembered would have ended within max_burst;
/// - enough was seen (kManyEnds, kFewRounds, kManyRounds), or the deadline leaves no time for more;
/// - the rest after the last burst is over.
/// It is a quarter longer than the longest of the rounds remembered that fit into max_burst, or
/// longer yet by the ages seen (kLongerByAge).
///
/// Of the rounds those are left out in which somebody ended who was far older than in most: they
/// tell of him, not of those who are in the way now.
///
/// \param present  what the attempt, or a look right after it, saw
/// \param now        of a clock that does not run back, in microseconds from any start; the same
///                   clock as the deadline's
WaitDecision decide(WaitPolicy& policy, const HoldersSeen& present, Timestamp now);

/// One of the holders that were to be waited for has ended: to be called before the next decide().
///
/// \param age  of its transaction then, or at most; kUnknownTime where it is unknown or prepared
void holder_ended(WaitPolicy& policy, Microseconds age);

/// To be called after each burst, successful or not.
///
/// \param spent      time in the queue
/// \param got_locks  false: it ran out; the next one will be twice as long, after a longer rest
void burst_ended(WaitPolicy& policy, Timestamp now, Microseconds spent, bool got_locks);

/// To be called where others were kept waiting for nothing without a burst: locks were got, but had
/// to be given back, because the statement ran into one more lock. Starts a rest.
///
/// \param spent  time for which others may have waited
void kept_waiting(WaitPolicy& policy, Timestamp now, Microseconds spent);

/// How long a burst would be now, by the rounds and failures seen and max_burst alone: the sensible
/// lock_timeout for locks that turn up inside the statement. At least 0.
Microseconds burst_length(const WaitPolicy& policy);

} // namespace lockguard::core
