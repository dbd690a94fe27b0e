// A model of one table's lock queue in virtual time, to compare ways of getting an ACCESS EXCLUSIVE
// lock: what it costs those who wait for it, and what it costs everybody else.
//
// Sessions run transactions that take a lock on the table when they begin and keep it until they
// end; these do not conflict with each other. One DDL statement wants the table for itself. The
// queue is PostgreSQL's: fair, so that who comes while the DDL is queued waits behind it.
#pragma once

#include "core/wait_policy.h"
#include "core/wait_rhythm.h"

#include <cstdint>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

namespace lockguard::simulation {

using core::Microseconds;
using core::Timestamp;

inline constexpr Microseconds kMillisecond = 1'000;
inline constexpr Microseconds kSecond = 1'000'000;

using Random = std::mt19937_64;

/// How long transactions are.
struct Lengths {
    enum class Shape : std::uint8_t {
        fixed,       // always a
        uniform,     // a to b
        exponential, // mean a
        pareto,      // least a, exponent b / 1000: the lower, the heavier the tail
        lognormal,   // median a, sigma b / 1000
    };
    Shape shape = Shape::fixed;
    std::int64_t a = 0;
    std::int64_t b = 0;

    Microseconds draw(Random& random) const;
};

/// A kind of transaction on the table.
struct Traffic {
    unsigned clients = 0;  // closed loop: so many sessions, each without a pause in between
    double per_second = 0; // open loop: Poisson arrivals
    Lengths lengths;
    Lengths before = {}; // its age when it comes for the lock: work on other tables, and thought
};

struct Situation {
    std::string_view name;
    std::vector<Traffic> traffic;
    Lengths blocker; // a session idle in transaction when the DDL begins: how long from then on
    Microseconds blocker_age = kSecond; // then
    Microseconds horizon = 30 * kSecond;
};

/// What a way of waiting does next.
struct Move {
    enum class Kind : std::uint8_t { queue, sleep, wait_for_holders };
    Kind kind;
    Microseconds duration;
};
inline constexpr Microseconds kForever = INT64_MAX;

/// A way of getting the lock.
class Strategy {
  public:
    virtual ~Strategy() = default;
    /// Does it try conditionally (LOCK NOWAIT) at the start and after each sleep?
    virtual bool tries() const = 0;
    /// Called after an attempt that failed, or at the start and after sleeps where tries() is
    /// false.
    virtual Move next(const core::HoldersSeen& present, Timestamp now) = 0;
    /// How long it sleeps at most before it looks after something else, and sleeps on.
    virtual Microseconds longest_sleep(Microseconds /*waited*/) const { return kForever; }
    /// Called for each holder that has ended during a sleep on holders, before the next attempt.
    virtual void holder_ended(Microseconds /*age*/) {}
    /// Called after a stay in the queue.
    virtual void queue_left(Timestamp /*now*/, Microseconds /*spent*/, bool /*got_lock*/) {}
};

/// A name for the report, and how to make one. The seed is for strategies that throw dice.
struct Contestant {
    std::string_view name;
    std::unique_ptr<Strategy> (*make)(std::uint64_t seed);
};

/// The policy with its default limits, then plain ALTER TABLE, then the loops that people write.
const std::vector<Contestant>& contestants();
/// The policy alone; the same as contestants()[0].
std::unique_ptr<Strategy> make_policy(std::uint64_t seed);
inline constexpr Microseconds kMaxBurst = 500 * kMillisecond;

/// Readers with gaps behind an idle session, traffic without gaps, heavy tails.
const std::vector<Situation>& situations();
/// The one of that name; throws std::out_of_range.
const Situation& situation(std::string_view name);

/// What one run came to.
struct Outcome {
    bool done = false;            // got the lock before the horizon
    Microseconds took = 0;        // until then; the horizon where it never did
    Microseconds took_after = 0;  // the same, from the moment that the idle blocker was gone
    Microseconds worst_stall = 0; // longest that another session waited for the lock
    Microseconds lost = 0;        // all that they waited, together
    double stalled = 0;           // share of their transactions that waited longer than 50 ms
    unsigned stays = 0;           // in the queue
    Microseconds queued = 0;      // in the queue altogether
    Microseconds queued_behind_idle = 0; // of that, while the idle blocker held its lock
    Microseconds oldest_idle = 0; // age of the idle blocker's transaction as a stay began, at most
    unsigned wake_ups = 0;        // from sleeps
};

Outcome simulate(const Situation& situation, Strategy& strategy, std::uint64_t seed);

/// Many runs with different seeds.
struct Summary {
    double done = 0; // share of the runs
    // kForever where a run that never got the lock falls on the place.
    Microseconds median_took = 0;
    Microseconds p90_took = 0;
    double mean_took = 0;         // a run that never got the lock counts as the horizon
    double mean_took_after = 0;   // likewise
    Microseconds worst_stall = 0; // of all runs
    double stalled = 0;           // mean
    double mean_lost = 0;
    Microseconds worst_took_after = 0;   // kForever where a run never got the lock
    Microseconds queued_behind_idle = 0; // most of all runs
    Microseconds oldest_idle = 0;        // likewise
    double wake_ups = 0;                 // a second, most of all runs
};

Summary summarize(const Situation& situation, const Contestant& contestant, unsigned runs);

} // namespace lockguard::simulation
