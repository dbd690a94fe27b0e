#include "core/incident_tracker.h"

#include "core/graph_reach.h"
#include "core/incident_end.h"
#include "core/words/incidents.h"

#include "test_memory.h"
#include "test_tables.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace lockguard::core {
namespace {

constexpr Microseconds kSecond = 1'000'000;

/// A graph by edges between sessions that are named by their pids; procno is pid - 1000.
class Story {
  public:
    explicit Story(Microseconds min_wait = kSecond, std::size_t roots = 100)
        : limits_{min_wait, roots} {}

    struct Wait {
        std::int32_t waiter;
        std::int32_t blocker;
        Timestamp since;
        bool holds = true;
    };

    /// Another transaction of that session.
    void next_transaction(std::int32_t pid) { ++lxid_[pid]; }
    /// From now on, a prepared transaction of that pid's place (pid 0) stands for it.
    void prepare(std::int32_t pid) { prepared_.push_back(pid); }

    /// Takes a look at that time.
    void look(Timestamp at, const std::vector<Wait>& waits) {
        GraphMaker maker;
        std::vector<SeenSession> sessions;
        std::map<std::int32_t, SessionIndex> index;
        const auto place = [&](std::int32_t pid) {
            const auto known = index.find(pid);
            if (known != index.end())
                return known->second;
            const bool prepared =
                std::find(prepared_.begin(), prepared_.end(), pid) != prepared_.end();
            SeenSession seen = {};
            seen.key.procno = pid - 1000 + (prepared ? 1000 : 0);
            seen.key.pid = prepared ? 0 : pid;
            seen.key.lxid = prepared ? static_cast<std::uint32_t>(pid) + 5000 : lxid_[pid] + 1;
            seen.key.vxid_number = pid - 1000;
            seen.key.vxid_lxid = lxid_[pid] + 1;
            seen.key.xact_start = 7;
            seen.waits_since = kUnknownTime;
            sessions.push_back(seen);
            return index[pid] = maker.session(seen.key.pid, 7);
        };
        for (const Wait& wait : waits) {
            const SessionIndex waiter = place(wait.waiter);
            maker.edge(waiter, place(wait.blocker), wait.holds);
            sessions[waiter].waits_since = wait.since;
        }
        const LockGraph graph = maker.graph();
        const std::vector<Timestamp> starts(sessions.size(), 7);
        const auto rows = grow_lock_forest(graph, starts, memory_);
        state_ = follow_incidents(state_, {graph, rows, sessions, at}, limits_, memory_);
    }

    const TrackedRoot* of(std::int32_t pid) const {
        for (const TrackedRoot& root : state_.roots) {
            if (root.root.pid == pid && !root.closed)
                return &root;
        }
        return nullptr;
    }
    void close(std::int32_t pid) {
        for (TrackedRoot& root : state_.roots) {
            if (root.root.pid == pid)
                root.closed = true;
        }
    }
    const IncidentState& state() const { return state_; }

  private:
    TestMemory memory_;
    IncidentLimits limits_;
    IncidentState state_ = {};
    std::map<std::int32_t, std::uint32_t> lxid_;
    std::vector<std::int32_t> prepared_;
};

TEST(IncidentTrackerTest, NobodyWaits) {
    Story story;
    story.look(10 * kSecond, {});
    EXPECT_TRUE(story.state().roots.empty());
    EXPECT_EQ(story.state().looked_at, 10 * kSecond);
}

TEST(IncidentTrackerTest, ACandidateBecomesAnIncidentAfterMinWait) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 9'500'000}});
    ASSERT_NE(story.of(1000), nullptr);
    EXPECT_EQ(story.of(1000)->id, 0);
    EXPECT_FALSE(story.of(1000)->opened);
    story.look(10'499'999, {{1001, 1000, 9'500'000}});
    EXPECT_EQ(story.of(1000)->id, 0);
    story.look(10'500'000, {{1001, 1000, 9'500'000}});
    const TrackedRoot& root = *story.of(1000);
    EXPECT_EQ(root.id, 1);
    EXPECT_TRUE(root.opened);
    EXPECT_TRUE(root.new_peak);
    EXPECT_EQ(root.began, 9'500'000);
    EXPECT_EQ(root.seen_at, 10'500'000);
    EXPECT_EQ(root.longest, kSecond);
    EXPECT_EQ(root.time_waited, kSecond);
    EXPECT_EQ(root.waiters, 1U);
    EXPECT_EQ(root.sessions, 1U);
    story.look(11 * kSecond, {{1001, 1000, 9'500'000}});
    EXPECT_FALSE(story.of(1000)->opened);
    EXPECT_FALSE(story.of(1000)->new_peak);
    EXPECT_EQ(story.state().last_id, 1);
}

TEST(IncidentTrackerTest, CountsThoseWhoWaitThroughOthers) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}, {1002, 1001, 9 * kSecond, false}});
    const TrackedRoot& root = *story.of(1000);
    EXPECT_EQ(story.state().roots.size(), 1U);
    EXPECT_EQ(root.waiters, 2U);
    EXPECT_EQ(root.time_waited, 3 * kSecond);
    EXPECT_EQ(root.longest, 2 * kSecond);
    const auto waiters = story.state().waiters_of(root);
    ASSERT_EQ(waiters.size(), 2U);
    EXPECT_TRUE(waiters[0].direct);
    EXPECT_FALSE(waiters[1].direct);
}

TEST(IncidentTrackerTest, SumsUpOverLooks) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}, {1002, 1000, 9 * kSecond}});
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond}, {1003, 1000, 10'500'000}});
    // 1002 comes back, with another wait.
    story.look(12 * kSecond, {{1001, 1000, 8 * kSecond}, {1002, 1000, 11'500'000}});
    const TrackedRoot& root = *story.of(1000);
    EXPECT_EQ(root.time_waited, 4 * kSecond + kSecond + 500'000 + 500'000);
    EXPECT_EQ(root.longest, 4 * kSecond);
    EXPECT_EQ(root.sessions, 3U);
    EXPECT_EQ(root.peak, 2U);
}

TEST(IncidentTrackerTest, AnotherSessionInTheSamePlaceIsAnother) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    // The story gives each pid a procno of its own; what counts is both.
    story.look(11 * kSecond, {{1001, 1000, 10'900'000}});
    EXPECT_EQ(story.of(1000)->sessions, 1U);
    story.look(12 * kSecond, {{1004, 1000, 10'900'000}});
    EXPECT_EQ(story.of(1000)->sessions, 2U);
}

TEST(IncidentTrackerTest, AWaitThatBeganBehindAnotherCountsFromTheLookThatSawIt) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 5 * kSecond}, {1002, 1001, 6 * kSecond, false}});
    story.look(11 * kSecond, {{1002, 1001, 6 * kSecond}});
    const TrackedRoot& root = *story.of(1001);
    EXPECT_EQ(root.id, 0);
    EXPECT_EQ(root.began, 11 * kSecond);
    EXPECT_EQ(root.time_waited, 0);
    story.look(12 * kSecond, {{1002, 1001, 6 * kSecond}});
    EXPECT_EQ(story.of(1001)->longest, kSecond);
    EXPECT_EQ(story.of(1001)->id, 2);
}

TEST(IncidentTrackerTest, OfTwoRootsEachHasItsOwn) {
    Story story;
    story.look(10 * kSecond, {{1002, 1000, 8 * kSecond}, {1002, 1001, 8 * kSecond}});
    ASSERT_EQ(story.state().roots.size(), 2U);
    EXPECT_EQ(story.of(1000)->waiters, 1U);
    EXPECT_EQ(story.of(1001)->waiters, 1U);
    EXPECT_EQ(story.state().last_id, 2);
}

TEST(IncidentTrackerTest, TheNextTransactionIsAnother) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.next_transaction(1000);
    story.look(11 * kSecond, {{1002, 1000, 10'500'000}});
    EXPECT_EQ(story.state().roots.size(), 2U);
    EXPECT_EQ(story.state().roots[0].id, 0); // the new one
    EXPECT_EQ(story.state().roots[1].id, 1);
    EXPECT_EQ(story.state().roots[1].session, kNotTracked);
}

TEST(IncidentTrackerTest, TheSameWaitBehindTheSameSessionGoesOn) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.next_transaction(1000);
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond}});
    ASSERT_EQ(story.state().roots.size(), 1U);
    EXPECT_EQ(story.of(1000)->time_waited, 3 * kSecond);
    // Standing ahead in the queue is not holding.
    story.next_transaction(1000);
    story.look(12 * kSecond, {{1001, 1000, 8 * kSecond, false}});
    EXPECT_EQ(story.state().roots.size(), 2U);
}

TEST(IncidentTrackerTest, AnUnseenIncidentStaysUntilItIsClosed) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.look(11 * kSecond, {});
    ASSERT_NE(story.of(1000), nullptr);
    EXPECT_EQ(story.of(1000)->session, kNotTracked);
    EXPECT_EQ(story.of(1000)->missed, 1U);
    EXPECT_EQ(story.of(1000)->missed_at, 11 * kSecond);
    EXPECT_EQ(story.of(1000)->seen_at, 10 * kSecond);
    story.look(12 * kSecond, {});
    EXPECT_EQ(story.of(1000)->missed, 2U);
    EXPECT_EQ(story.of(1000)->missed_at, 11 * kSecond);
    story.look(13 * kSecond, {{1001, 1000, 12'500'000}});
    EXPECT_EQ(story.of(1000)->missed, 0U);
    EXPECT_EQ(story.of(1000)->id, 1);
    story.look(14 * kSecond, {});
    story.close(1000);
    story.look(15 * kSecond, {});
    EXPECT_TRUE(story.state().roots.empty());
    story.look(16 * kSecond, {{1001, 1000, 14 * kSecond}});
    EXPECT_EQ(story.state().roots.size(), 1U);
}

TEST(IncidentTrackerTest, AnUnseenCandidateStaysForOneLook) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 9'900'000}});
    story.look(11 * kSecond, {});
    EXPECT_NE(story.of(1000), nullptr);
    story.look(12 * kSecond, {});
    EXPECT_EQ(story.of(1000), nullptr);
}

TEST(IncidentTrackerTest, ARootThatBeginsToWaitHandsOver) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond}, {1000, 1002, 10'900'000}});
    const TrackedRoot& old = *story.of(1000);
    ASSERT_NE(old.joined, kNotTracked);
    const TrackedRoot& heir = story.state().roots[old.joined];
    EXPECT_EQ(heir.root.pid, 1002);
    EXPECT_EQ(heir.id, 2) << "an incident, however short its own time";
    EXPECT_TRUE(heir.opened);
    EXPECT_EQ(heir.waiters, 2U);
    EXPECT_EQ(end_of_incident(old, {}), IncidentEnd::became_part_of);
}

// Of a deadlock, the session that was chosen waits no more before its locks are free.
TEST(IncidentTrackerTest, ABrokenRingIsPartOfNothingAtOnce) {
    Story story;
    story.look(10 * kSecond, {{1000, 1001, 8 * kSecond}, {1001, 1000, 8'500'000}});
    const std::int32_t root = story.of(1000) != nullptr ? 1000 : 1001;
    const std::int32_t chosen = 2001 - root;
    ASSERT_TRUE(story.of(root)->cycle);
    story.look(11 * kSecond, {{root, chosen, 8 * kSecond}});
    EXPECT_EQ(story.of(root)->joined, kNotTracked);
    EXPECT_EQ(story.of(chosen)->id, 0) << "no incident of its own";
    RootEvidence evidence = {};
    evidence.holds = true;
    EXPECT_EQ(end_of_incident(*story.of(root), evidence), IncidentEnd::open);
    evidence.ring_noted = true;
    EXPECT_EQ(end_of_incident(*story.of(root), evidence), IncidentEnd::deadlock);

    story.look(12 * kSecond, {{root, chosen, 8 * kSecond}});
    EXPECT_NE(story.of(root)->joined, kNotTracked) << "it stays so";
}

// It closed and was broken between two looks.
TEST(IncidentTrackerTest, ABrokenRingThatNoLookHasSeenIsPartOfNothingAtOnce) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.look(11 * kSecond, {{1000, 1001, 10'970'000}});
    EXPECT_EQ(story.of(1000)->joined, kNotTracked);
    EXPECT_EQ(story.of(1001)->id, 0) << "no incident of its own";
    RootEvidence evidence = {};
    evidence.ring_noted = true;
    EXPECT_EQ(end_of_incident(*story.of(1000), evidence), IncidentEnd::deadlock);
    story.look(12 * kSecond, {{1000, 1001, 10'970'000}});
    EXPECT_NE(story.of(1000)->joined, kNotTracked) << "it stays so";
}

TEST(IncidentTrackerTest, ACandidateThatBeginsToWaitIsForgotten) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 9'900'000}});
    story.look(10'100'000, {{1001, 1000, 9'900'000}, {1000, 1002, 10'050'000}});
    EXPECT_EQ(story.of(1002)->id, 0);
}

TEST(IncidentTrackerTest, ARootThatIsPreparedGoesOnAsThat) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.prepare(1000);
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond}});
    const TrackedRoot& old = *story.of(1000);
    ASSERT_NE(old.joined, kNotTracked);
    EXPECT_EQ(story.state().roots[old.joined].root.pid, 0);
    EXPECT_EQ(story.state().roots[old.joined].id, 2);
}

TEST(IncidentTrackerTest, OneStandsForARing) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    // The root closes the ring; it stays the one, wherever the lock tree begins.
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond}, {1000, 1001, 10 * kSecond}});
    ASSERT_EQ(story.state().roots.size(), 1U);
    EXPECT_EQ(story.of(1000)->id, 1);
    EXPECT_TRUE(story.of(1000)->cycle);
    EXPECT_EQ(story.of(1000)->waiters, 1U);
    story.look(12 * kSecond,
               {{1002, 1001, 11 * kSecond}, {1001, 1000, 8 * kSecond}, {1000, 1001, 10 * kSecond}});
    EXPECT_EQ(story.of(1000)->waiters, 2U);
}

TEST(IncidentTrackerTest, ARingInTheWayOfTwoRootsBelongsToTheOlder) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}, {1003, 1002, 7 * kSecond}});
    EXPECT_EQ(story.state().last_id, 2);
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond},
                              {1003, 1002, 7 * kSecond},
                              {1000, 1003, 10'500'000},
                              {1002, 1001, 10'500'000}});
    const TrackedRoot& younger = *story.of(1000);
    ASSERT_NE(younger.joined, kNotTracked);
    EXPECT_EQ(story.state().roots[younger.joined].root.pid, 1002);
}

TEST(IncidentTrackerTest, FollowsThoseThatItFollowedFirst) {
    Story story(kSecond, 2);
    story.look(10 * kSecond, {{1001, 1000, 9'900'000}});
    story.look(11 * kSecond, {{1001, 1000, 9'900'000},
                              {1003, 1002, 10'500'000},
                              {1005, 1004, 10'500'000},
                              {1006, 1004, 10'500'000}});
    EXPECT_EQ(story.state().roots.size(), 2U);
    EXPECT_NE(story.of(1000), nullptr);
    EXPECT_NE(story.of(1004), nullptr) << "the one with the most waiters";
}

TEST(IncidentTrackerTest, AnUnknownStartCountsFromTheLook) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, kUnknownTime}});
    story.look(11 * kSecond, {{1001, 1000, kUnknownTime}});
    EXPECT_EQ(story.of(1000)->longest, kSecond);
    EXPECT_EQ(story.of(1000)->began, 10 * kSecond);
}

TEST(IncidentTrackerTest, AClockThatRunsBackDoesNoHarm) {
    Story story;
    story.look(10 * kSecond, {{1001, 1000, 8 * kSecond}});
    story.look(5 * kSecond, {{1001, 1000, 8 * kSecond}});
    EXPECT_EQ(story.of(1000)->time_waited, 2 * kSecond);
    story.look(11 * kSecond, {{1001, 1000, 8 * kSecond}});
    EXPECT_EQ(story.of(1000)->time_waited, 3 * kSecond);
}

TEST(IncidentTrackerTest, FailsCleanlyWithoutMemory) {
    GraphMaker maker;
    std::vector<SeenSession> sessions;
    for (std::int32_t pid = 1000; pid < 1004; ++pid) {
        sessions.push_back({{pid - 1000, pid, 1, 0, 0, 7}, pid > 1000 ? 5 : kUnknownTime});
        maker.session(pid, 7);
    }
    maker.edge(1, 0);
    maker.edge(2, 1);
    maker.edge(3, 2);
    const LockGraph graph = maker.graph();
    TestMemory memory;
    const std::vector<Timestamp> starts(4, 7);
    const auto rows = grow_lock_forest(graph, starts, memory);
    const IncidentState before = {};
    EXPECT_GT(
        fail_every_allocation([&](auto& failing) {
            follow_incidents(before, {graph, rows, sessions, 2 * kSecond}, {kSecond, 10}, failing);
        }),
        0U);
}

TEST(GraphBehindTest, HasTheRootAtTheTop) {
    GraphMaker maker;
    for (std::int32_t pid = 1000; pid < 1005; ++pid)
        maker.session(pid, pid);
    maker.edge(2, 0);
    maker.edge(2, 1);
    maker.edge(3, 2);
    maker.edge(4, 0);
    const LockGraph graph = maker.graph();
    TestMemory memory;
    const LockGraph behind = graph_behind(graph, 1, memory);
    const std::vector<Timestamp> starts(5, 7);
    std::string text;
    for (const ForestRow& row : grow_lock_forest(behind, starts, memory))
        text += std::string(row.tree) + "\n";
    EXPECT_EQ(text, "1001\n└─ 1002\n   └─ 1003\n");
}

TEST(EndOfIncidentTest, IsWhatWasSeen) {
    TrackedRoot root = {};
    root.joined = kNotTracked;
    root.missed = 1;
    const auto end = [&root](RootEvidence evidence) { return end_of_incident(root, evidence); };
    using End = IncidentEnd;
    using Note = FailureNote;
    const auto evidence = [](Note note, bool over, bool gone = false, bool holds = false) {
        RootEvidence result = {};
        result.note = note;
        result.transaction_over = over;
        result.session_gone = gone;
        result.holds = holds;
        result.notes_complete = true;
        return result;
    };
    EXPECT_EQ(end(evidence(Note::none, true)), End::released);
    EXPECT_EQ(end(evidence(Note::lock_timeout, true)), End::released);
    EXPECT_EQ(end(evidence(Note::terminated, true, true)), End::terminated);
    EXPECT_EQ(end(evidence(Note::cancelled, true)), End::cancelled);
    EXPECT_EQ(end(evidence(Note::deadlock, true)), End::deadlock);
    RootEvidence lost = evidence(Note::none, true, true);
    EXPECT_EQ(end(lost), End::released) << "its client left";
    lost.notes_complete = false;
    EXPECT_EQ(end(lost), End::unknown) << "nobody would have said so";
    RootEvidence holds = evidence(Note::none, false, false, true);
    EXPECT_EQ(end(holds), End::open) << "between two waits?";
    root.missed = 2;
    EXPECT_EQ(end(holds), End::waiters_gave_up);
    RootEvidence noted = evidence(Note::none, true);
    noted.waiters_noted = true;
    EXPECT_EQ(end(noted), End::waiters_gave_up) << "and the root went on afterwards";
    noted.ring_noted = true;
    EXPECT_EQ(end(noted), End::deadlock);
}

TEST(EndOfIncidentTest, HasNames) {
    EXPECT_EQ(incident_end_name(IncidentEnd::open), "");
    EXPECT_EQ(incident_end_name(IncidentEnd::waiters_gave_up), "waiters gave up");
    EXPECT_EQ(incident_end_name(IncidentEnd::became_part_of), "became part of");
    EXPECT_EQ(incident_end_name(IncidentEnd::unknown), "unknown");
}

TEST(IncidentLogLineTest, TellsWhatIsKnown) {
    TestMemory memory;
    IncidentLine line = {};
    line.id = 7;
    line.end = "released";
    line.lasted = 45'000'120;
    line.root_pid = 4711;
    line.application = "a\"b\nc";
    line.waiters = 3;
    line.sessions = 4;
    line.waited = 1;
    line.longest = -1;
    EXPECT_EQ(incident_log_line(line, memory),
              R"(id=7 end="released" lasted_ms=45000.120 root_pid=4711 )"
              R"(root_application="a\"b?c" waiters=3 sessions=4 waited_ms=0.001)");
    line.part_of = 9;
    line.root_pid = 0;
    line.gid = "order 7";
    EXPECT_EQ(
        incident_log_line(line, memory).substr(0, 90),
        R"(id=7 end="released" part_of=9 lasted_ms=45000.120 root_pid=0 root_gid="order 7" root_appli)");
}

} // namespace
} // namespace lockguard::core
