#include "wait_simulation.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <queue>
#include <stdexcept>

namespace lockguard::simulation {
namespace {

// The distributions of <random> differ between libraries; these do not.
double draw_unit(Random& random) {
    return static_cast<double>(random() >> 11) * 0x1p-53;
}

Microseconds draw_exponential(Random& random, double mean) {
    return std::llround(-mean * std::log1p(-draw_unit(random)));
}

} // namespace

Microseconds Lengths::draw(Random& random) const {
    const auto scale = static_cast<double>(a);
    const double form = static_cast<double>(b) / 1000;
    if (a == 0)
        return 0;
    Microseconds length = 0;
    switch (shape) {
    case Shape::fixed:
        length = a;
        break;
    case Shape::uniform:
        length = a + static_cast<Microseconds>(draw_unit(random) * static_cast<double>(b - a));
        break;
    case Shape::exponential:
        length = draw_exponential(random, scale);
        break;
    case Shape::pareto:
        length = std::llround(scale * std::pow(1 - draw_unit(random), -1 / form));
        break;
    case Shape::lognormal: {
        const double radius = std::sqrt(-2 * std::log1p(-draw_unit(random)));
        const double normal = radius * std::cos(2 * std::numbers::pi * draw_unit(random));
        length = std::llround(scale * std::exp(form * normal));
        break;
    }
    }
    // A tail without end would only run beyond every horizon.
    return std::clamp<Microseconds>(length, 1, 3600 * kSecond);
}

namespace {

// The DDL begins when the traffic has settled.
constexpr Microseconds kWarmUp = 5 * kSecond;
constexpr Microseconds kDdlLength = kMillisecond;
// From the end of a sleep, or of a holder's transaction, until the sleeper runs.
constexpr Microseconds kWakeUp = 100;
constexpr Microseconds kLongStall = 50 * kMillisecond;

class Model {
  public:
    Model(const Situation& situation, Strategy& strategy, std::uint64_t seed)
        : situation_(situation), strategy_(strategy), random_(seed) {}

    Outcome run();

  private:
    enum class EventKind : std::uint8_t {
        arrival,
        wants_lock,
        end,
        ddl_start,
        ddl_wakes,
        ddl_times_out,
        ddl_ends
    };
    struct Event {
        Timestamp time;
        std::uint64_t order; // of creation, to break ties
        EventKind kind;
        std::uint64_t what; // index of the traffic, id of the transaction, number of the stay
    };
    struct Later {
        bool operator()(const Event& left, const Event& right) const {
            return left.time != right.time ? left.time > right.time : left.order > right.order;
        }
    };
    struct Transaction {
        std::uint64_t id;
        Timestamp begun;
        Timestamp came; // for the lock
        Timestamp ends; // once it holds the lock
        std::size_t traffic;
    };
    enum class Ddl : std::uint8_t { outside, queued, holds, done };
    static constexpr std::size_t kBlocker = SIZE_MAX; // Transaction::traffic of the idle blocker

    void schedule(Timestamp time, EventKind kind, std::uint64_t what = 0) {
        events_.push({time, order_++, kind, what});
    }
    void schedule_arrival(std::size_t traffic);
    void begin(std::size_t traffic);
    void want_lock(const Transaction& transaction);
    void hold(Transaction transaction, Microseconds length);
    void end(std::uint64_t id);
    void admit_waiters();
    void note_stall(Microseconds stall);
    void try_or_move();
    void move();
    void get_lock();
    void leave_queue(bool got_lock);
    core::HoldersSeen look() const;
    void tell_who_ended();

    const Situation& situation_;
    Strategy& strategy_;
    Random random_;
    Outcome outcome_;
    std::priority_queue<Event, std::vector<Event>, Later> events_;
    std::uint64_t order_ = 0;
    std::uint64_t next_id_ = 0;
    Timestamp now_ = 0;
    std::vector<Transaction> holders_;
    std::vector<Transaction> coming_;  // not there yet
    std::vector<Transaction> waiters_; // behind the DDL, in order
    std::vector<Transaction> awaited_; // by the DDL, outside of the queue
    Ddl ddl_ = Ddl::outside;
    bool begun_ = false; // the DDL
    Timestamp sleep_start_ = 0;
    Timestamp blocker_end_ = kWarmUp; // where there is none: the same
    Timestamp stay_start_ = 0;
    std::uint64_t stay_ = 0;
    std::uint64_t counted_ = 0;
    std::uint64_t long_stalls_ = 0;
};

void Model::schedule_arrival(std::size_t traffic) {
    const double mean = 1e6 / situation_.traffic[traffic].per_second;
    schedule(now_ + draw_exponential(random_, mean), EventKind::arrival, traffic);
}

void Model::begin(std::size_t traffic) {
    const Microseconds before = situation_.traffic[traffic].before.draw(random_);
    const Transaction transaction{next_id_++, now_, now_ + before, 0, traffic};
    if (before == 0) {
        want_lock(transaction);
        return;
    }
    coming_.push_back(transaction);
    schedule(transaction.came, EventKind::wants_lock, transaction.id);
}

void Model::want_lock(const Transaction& transaction) {
    if (begun_)
        ++counted_;
    if (ddl_ == Ddl::queued || ddl_ == Ddl::holds)
        waiters_.push_back(transaction);
    else
        hold(transaction, situation_.traffic[transaction.traffic].lengths.draw(random_));
}

void Model::hold(Transaction transaction, Microseconds length) {
    transaction.ends = now_ + length;
    holders_.push_back(transaction);
    schedule(transaction.ends, EventKind::end, transaction.id);
}

void Model::end(std::uint64_t id) {
    const auto ended =
        std::find_if(holders_.begin(), holders_.end(), [id](const auto& t) { return t.id == id; });
    const std::size_t traffic = ended->traffic;
    *ended = holders_.back();
    holders_.pop_back();
    if (holders_.empty() && ddl_ == Ddl::queued)
        leave_queue(true);
    // Without a pause: no other event comes between the end and the next transaction.
    if (traffic != kBlocker && situation_.traffic[traffic].clients > 0)
        begin(traffic);
}

void Model::note_stall(Microseconds stall) {
    outcome_.worst_stall = std::max(outcome_.worst_stall, stall);
    outcome_.lost += stall;
    if (stall > kLongStall)
        ++long_stalls_;
}

void Model::admit_waiters() {
    for (const Transaction& waiter : waiters_) {
        note_stall(now_ - waiter.came);
        hold(waiter, situation_.traffic[waiter.traffic].lengths.draw(random_));
    }
    waiters_.clear();
}

core::HoldersSeen Model::look() const {
    core::HoldersSeen seen{};
    for (const Transaction& holder : holders_) {
        ++seen.holders;
        const Microseconds age = now_ - holder.begun;
        seen.next_age = std::max(seen.next_age, std::min(seen.oldest_age, age));
        seen.oldest_age = std::max(seen.oldest_age, age);
    }
    return seen;
}

void Model::tell_who_ended() {
    for (const Transaction& holder : awaited_) {
        if (holder.ends <= now_)
            strategy_.holder_ended(holder.ends - holder.begun);
    }
    awaited_.clear();
}

void Model::try_or_move() {
    if (strategy_.tries() && holders_.empty())
        get_lock();
    else
        move();
}

void Model::move() {
    const core::HoldersSeen seen = look();
    const Move next = strategy_.next(seen, now_);
    sleep_start_ = now_;
    const Timestamp bound = next.duration == kForever ? kForever : now_ + next.duration;
    switch (next.kind) {
    case Move::Kind::queue:
        ++outcome_.stays;
        stay_start_ = now_;
        if (now_ < blocker_end_)
            outcome_.oldest_idle =
                std::max(outcome_.oldest_idle, now_ - (kWarmUp - situation_.blocker_age));
        ddl_ = Ddl::queued;
        if (holders_.empty())
            leave_queue(true);
        else if (bound != kForever)
            schedule(bound, EventKind::ddl_times_out, stay_);
        break;
    case Move::Kind::sleep:
        schedule(bound + kWakeUp, EventKind::ddl_wakes);
        break;
    case Move::Kind::wait_for_holders: {
        awaited_ = holders_;
        Timestamp last = now_;
        for (const Transaction& holder : holders_)
            last = std::max(last, holder.ends);
        schedule(std::min(last, bound) + kWakeUp, EventKind::ddl_wakes);
        break;
    }
    }
}

void Model::get_lock() {
    ddl_ = Ddl::holds;
    outcome_.done = true;
    outcome_.took = now_ - kWarmUp;
    outcome_.took_after = std::max<Microseconds>(now_ - blocker_end_, 0);
    schedule(now_ + kDdlLength, EventKind::ddl_ends);
}

void Model::leave_queue(bool got_lock) {
    ++stay_;
    const Microseconds spent = now_ - stay_start_;
    outcome_.queued += spent;
    outcome_.queued_behind_idle +=
        std::max<Microseconds>(std::min(now_, blocker_end_) - stay_start_, 0);
    strategy_.queue_left(now_, spent, got_lock);
    if (got_lock) {
        get_lock();
        return;
    }
    ddl_ = Ddl::outside;
    admit_waiters();
    move();
}

Outcome Model::run() {
    for (std::size_t i = 0; i < situation_.traffic.size(); ++i) {
        const Traffic& traffic = situation_.traffic[i];
        // The clients come one by one, or all of them would be in step.
        for (unsigned client = 0; client < traffic.clients; ++client) {
            const Transaction transaction{next_id_++, now_, now_, 0, i};
            const Microseconds length = traffic.lengths.draw(random_);
            hold(transaction,
                 1 + static_cast<Microseconds>(draw_unit(random_) * static_cast<double>(length)));
        }
        if (traffic.per_second > 0)
            schedule_arrival(i);
    }
    if (situation_.blocker.a > 0) {
        blocker_end_ = kWarmUp + situation_.blocker.draw(random_);
        const Timestamp begun = kWarmUp - situation_.blocker_age;
        const Transaction blocker{next_id_++, begun, begun, blocker_end_, kBlocker};
        holders_.push_back(blocker);
        schedule(blocker_end_, EventKind::end, blocker.id);
    }
    schedule(kWarmUp, EventKind::ddl_start);

    const Timestamp horizon = kWarmUp + situation_.horizon;
    while (ddl_ != Ddl::done && !events_.empty() && events_.top().time <= horizon) {
        const Event event = events_.top();
        events_.pop();
        now_ = event.time;
        switch (event.kind) {
        case EventKind::arrival:
            schedule_arrival(event.what);
            begin(event.what);
            break;
        case EventKind::wants_lock: {
            const auto comer = std::find_if(coming_.begin(), coming_.end(),
                                            [&event](const auto& t) { return t.id == event.what; });
            const Transaction transaction = *comer;
            coming_.erase(comer);
            want_lock(transaction);
            break;
        }
        case EventKind::end:
            end(event.what);
            break;
        case EventKind::ddl_start:
            begun_ = true;
            try_or_move();
            break;
        case EventKind::ddl_wakes:
            outcome_.wake_ups +=
                1 + static_cast<unsigned>((now_ - kWakeUp - sleep_start_) /
                                          strategy_.longest_sleep(sleep_start_ - kWarmUp));
            tell_who_ended();
            try_or_move();
            break;
        case EventKind::ddl_times_out:
            if (ddl_ == Ddl::queued && event.what == stay_)
                leave_queue(false);
            break;
        case EventKind::ddl_ends:
            ddl_ = Ddl::done;
            admit_waiters();
            break;
        }
    }
    if (!outcome_.done) {
        now_ = horizon;
        outcome_.took = situation_.horizon;
        outcome_.took_after = horizon - std::min(blocker_end_, horizon);
        if (ddl_ == Ddl::queued)
            outcome_.queued += now_ - stay_start_;
    }
    for (const Transaction& waiter : waiters_)
        note_stall(now_ - waiter.came);
    if (counted_ > 0)
        outcome_.stalled = static_cast<double>(long_stalls_) / static_cast<double>(counted_);
    return outcome_;
}

class Policy final : public Strategy {
  public:
    explicit Policy(std::uint64_t seed)
        : policy_(core::start_wait(kLimits, seed)),
          rhythm_(core::start_rhythm(kLimits, false, kWarmUp)) {}

    bool tries() const override { return true; }

    Move next(const core::HoldersSeen& present, Timestamp now) override {
        const core::WaitDecision decision = core::decide(policy_, present, now);
        switch (decision.step) {
        case core::WaitStep::queue:
            return {Move::Kind::queue, decision.duration};
        case core::WaitStep::wait_for_holders:
            return {Move::Kind::wait_for_holders, decision.duration};
        default:
            return {Move::Kind::sleep, decision.duration};
        }
    }

    Microseconds longest_sleep(Microseconds waited) const override {
        return core::longest_sleep(rhythm_, 0, waited, core::kUnknownTime);
    }

    void holder_ended(Microseconds age) override { core::holder_ended(policy_, age); }

    void queue_left(Timestamp now, Microseconds spent, bool got_lock) override {
        core::burst_ended(policy_, now, spent, got_lock);
    }

  private:
    static constexpr core::WaitLimits kLimits{
        .max_burst = kMaxBurst, .deadlock_timeout = kSecond, .deadline = core::kUnknownTime};
    core::WaitPolicy policy_;
    core::WaitRhythm rhythm_;
};

class Plain final : public Strategy {
  public:
    bool tries() const override { return false; }
    Move next(const core::HoldersSeen&, Timestamp) override {
        return {Move::Kind::queue, kForever};
    }
};

class Polling final : public Strategy {
  public:
    bool tries() const override { return true; }
    Move next(const core::HoldersSeen&, Timestamp) override {
        return {Move::Kind::sleep, 100 * kMillisecond};
    }
};

/// A loop: lock_timeout, sleep, and again.
class Loop : public Strategy {
  public:
    bool tries() const final { return false; }
    Move next(const core::HoldersSeen&, Timestamp) final {
        queue_next_ = !queue_next_;
        if (!queue_next_)
            return {Move::Kind::queue, timeout(attempt_++)};
        return {Move::Kind::sleep, rest(attempt_ - 1)};
    }

  protected:
    virtual Microseconds timeout(unsigned attempt) = 0;
    virtual Microseconds rest(unsigned attempt) = 0;

  private:
    unsigned attempt_ = 0;
    bool queue_next_ = true;
};

class FixedLoop final : public Loop {
  public:
    FixedLoop(Microseconds timeout, Microseconds rest) : timeout_(timeout), rest_(rest) {}

  protected:
    Microseconds timeout(unsigned) override { return timeout_; }
    Microseconds rest(unsigned) override { return rest_; }

  private:
    Microseconds timeout_;
    Microseconds rest_;
};

/// 500 ms, with a rest drawn from 0 to 1 s, to 2 s, ... to 60 s.
class BackoffLoop final : public Loop {
  public:
    explicit BackoffLoop(std::uint64_t seed) : random_(seed ^ 0x5DEECE66DU) {}

  protected:
    Microseconds timeout(unsigned) override { return 500 * kMillisecond; }
    Microseconds rest(unsigned attempt) override {
        const Microseconds most = std::min(kSecond << std::min(attempt, 6U), 60 * kSecond);
        return static_cast<Microseconds>(draw_unit(random_) * static_cast<double>(most));
    }

  private:
    Random random_;
};

/// 100 ms more each time, up to a second, without rest.
class GrowingLoop final : public Loop {
  protected:
    Microseconds timeout(unsigned attempt) override {
        return std::min(kSecond, 100 * kMillisecond * (attempt + 1));
    }
    Microseconds rest(unsigned) override { return 0; }
};

/// Timeouts and rests that both grow, as a client library has them.
class ScheduleLoop final : public Loop {
  protected:
    Microseconds timeout(unsigned attempt) override { return step(attempt).timeout; }
    Microseconds rest(unsigned attempt) override { return step(attempt).rest; }

  private:
    struct Step {
        Microseconds timeout;
        Microseconds rest;
    };
    static Step step(unsigned attempt) {
        static constexpr Step kSteps[] = {
            {100'000, 50'000},    {100'000, 50'000},    {200'000, 50'000},
            {300'000, 100'000},   {400'000, 150'000},   {500'000, 2'000'000},
            {500'000, 2'000'000}, {500'000, 2'000'000}, {500'000, 2'000'000}};
        if (attempt < std::size(kSteps))
            return kSteps[attempt];
        return {kSecond, 5 * kSecond};
    }
};

template <Microseconds timeout, Microseconds rest>
std::unique_ptr<Strategy> make_fixed_loop(std::uint64_t) {
    return std::make_unique<FixedLoop>(timeout, rest);
}

template <class T>
std::unique_ptr<Strategy> make_plainly(std::uint64_t) {
    return std::make_unique<T>();
}

constexpr Lengths uniform(Microseconds least, Microseconds most) {
    return {Lengths::Shape::uniform, least, most};
}
/// The client's own, which differs a little from time to time.
constexpr Lengths thought(Microseconds length) {
    return uniform(length, length + length / 20);
}
constexpr Lengths exponential(Microseconds mean) {
    return {Lengths::Shape::exponential, mean, 0};
}
constexpr Lengths pareto(Microseconds least, std::int64_t exponent_thousandths) {
    return {Lengths::Shape::pareto, least, exponent_thousandths};
}
constexpr Lengths lognormal(Microseconds median, std::int64_t sigma_thousandths) {
    return {Lengths::Shape::lognormal, median, sigma_thousandths};
}

} // namespace

std::unique_ptr<Strategy> make_policy(std::uint64_t seed) {
    return std::make_unique<Policy>(seed);
}

const std::vector<Contestant>& contestants() {
    static const std::vector<Contestant> all = {
        {"low_priority", make_policy},
        {"plain ALTER TABLE", make_plainly<Plain>},
        {"loop 100 ms / 100 ms", make_fixed_loop<100'000, 100'000>},
        {"loop 500 ms / jitter to 60 s",
         [](std::uint64_t seed) -> std::unique_ptr<Strategy> {
             return std::make_unique<BackoffLoop>(seed);
         }},
        {"loop 2 s / 2 s", make_fixed_loop<2'000'000, 2'000'000>},
        {"loop growing to 1 s, no rest", make_plainly<GrowingLoop>},
        {"loop, schedule", make_plainly<ScheduleLoop>},
        {"LOCK NOWAIT each 100 ms", make_plainly<Polling>},
    };
    return all;
}

const std::vector<Situation>& situations() {
    static const std::vector<Situation> all = {
        {"idle reader for 6 s, 800 reads/s of 1 ms",
         {{.per_second = 800, .lengths = exponential(kMillisecond)}},
         uniform(4'000'000, 8'000'000)},
        {"32 clients of 20 ms without a gap",
         {{.clients = 32, .lengths = uniform(19'500, 20'500)}},
         {}},
        {"32 clients of 20 to 200 ms without a gap",
         {{.clients = 32, .lengths = uniform(20'000, 200'000)}},
         {}},
        {"32 writers of 20 ms, one idle for 5 s",
         {{.clients = 32, .lengths = uniform(19'500, 20'500)}},
         uniform(3'000'000, 7'000'000)},
        {"200 reads/s of 10 ms, exponential",
         {{.per_second = 200, .lengths = exponential(10'000)}},
         {}},
        {"500 reads/s of 20 ms, exponential",
         {{.per_second = 500, .lengths = exponential(20'000)}},
         {}},
        {"32 clients of 20 ms, exponential", {{.clients = 32, .lengths = exponential(20'000)}}, {}},
        {"32 clients, Pareto from 5 ms, exponent 1.5",
         {{.clients = 32, .lengths = pareto(5'000, 1'500)}},
         {}},
        {"32 clients, lognormal, median 20 ms, sigma 1",
         {{.clients = 32, .lengths = lognormal(20'000, 1'000)}},
         {}},
        {"500 reads/s of 5 ms, and a report of 1 to 3 s each 5 s",
         {{.per_second = 500, .lengths = exponential(5'000)},
          {.per_second = 0.2, .lengths = uniform(kSecond, 3 * kSecond)}},
         {}},
        {"32 clients, 5 ms of thought", {{.clients = 32, .lengths = thought(5'000)}}, {}},
        {"32 clients, 15 ms of thought", {{.clients = 32, .lengths = thought(15'000)}}, {}},
        {"32 clients, 20 ms of thought", {{.clients = 32, .lengths = thought(20'000)}}, {}},
        {"32 clients, 50 ms of thought", {{.clients = 32, .lengths = thought(50'000)}}, {}},
        {"32 clients, 3 x 12 ms of thought", {{.clients = 32, .lengths = thought(36'000)}}, {}},
        {"32 clients, 40 ms of thought, the lock for the last 10 ms",
         {{.clients = 32, .lengths = thought(10'000), .before = thought(30'000)}},
         {}},
        {"400 clients, 2 s of thought, the lock for the last 50 ms",
         {{.clients = 400, .lengths = thought(50'000), .before = uniform(kSecond, 2 * kSecond)}},
         {}},
        {"16 clients of 4 ms, TPC-B",
         {{.clients = 16, .lengths = uniform(1'000, 4'000), .before = uniform(500, 2'000)}},
         {}},
    };
    return all;
}

const Situation& situation(std::string_view name) {
    for (const Situation& candidate : situations())
        if (candidate.name == name)
            return candidate;
    throw std::out_of_range("no such situation");
}

Outcome simulate(const Situation& situation, Strategy& strategy, std::uint64_t seed) {
    return Model(situation, strategy, seed).run();
}

Summary summarize(const Situation& situation, const Contestant& contestant, unsigned runs) {
    Summary summary;
    std::vector<Microseconds> took;
    for (unsigned run = 0; run < runs; ++run) {
        const std::uint64_t seed = run + 1;
        const std::unique_ptr<Strategy> strategy = contestant.make(seed);
        const Outcome outcome = simulate(situation, *strategy, seed);
        took.push_back(outcome.done ? outcome.took : kForever);
        summary.done += outcome.done ? 1 : 0;
        summary.mean_took += static_cast<double>(outcome.took);
        summary.mean_took_after += static_cast<double>(outcome.took_after);
        summary.worst_stall = std::max(summary.worst_stall, outcome.worst_stall);
        summary.stalled += outcome.stalled;
        summary.mean_lost += static_cast<double>(outcome.lost);
        summary.worst_took_after =
            std::max(summary.worst_took_after, outcome.done ? outcome.took_after : kForever);
        summary.oldest_idle = std::max(summary.oldest_idle, outcome.oldest_idle);
        if (outcome.took > kSecond)
            summary.wake_ups = std::max(summary.wake_ups,
                                        1e6 * outcome.wake_ups / static_cast<double>(outcome.took));
        summary.queued_behind_idle =
            std::max(summary.queued_behind_idle, outcome.queued_behind_idle);
    }
    std::sort(took.begin(), took.end());
    summary.median_took = took[took.size() / 2];
    summary.p90_took = took[took.size() * 9 / 10];
    summary.done /= runs;
    summary.mean_took /= runs;
    summary.mean_took_after /= runs;
    summary.stalled /= runs;
    summary.mean_lost /= runs;
    return summary;
}

} // namespace lockguard::simulation
