// What the watch over guarded statements (worker/stall_watch) does about a session that has kept
// others waiting for too long, and what it remembers of that: so that each thing is done once, or
// again at growing intervals, and said once.
#pragma once

#include "worker/stall_case.h"

namespace lockguard::features {

/// What was done about a session.
enum class Deed : uint8 {
    none,
    ended_wait,      // of the wait that began then
    cancelled,       // the guarded statement of this number
    dealt_with_idle, // idle since then, or waiting for its client in this transaction
    told_of_fuse,    // likewise
    spared_later,    // in this transaction, active
};

/// A session that is watched, or a prepared transaction.
struct StallTrack {
    int pid;
    LocalTransactionId lxid;
    TimestampTz clear_at;     // the latest look at which nobody was kept waiting; 0: none
    pg::BehindRecord* record; // null while nobody is

    Deed deed;             // the latest
    int64 subject;         // what it was done about
    int times;             // how often
    core::Microseconds at; // by the steady clock

    // To end what its transaction does after the guarded statement; since nobody was kept waiting.
    int asked_times;
    core::Microseconds asked_last; // by the steady clock
    TimestampTz asked_statement;   // that one began then
};

/// Nothing is known of it any more.
void forget(StallTrack* track);

/// It has not kept anybody waiting at that look.
void note_clear(StallTrack* track, TimestampTz look);

/// Of those whom it keeps waiting. May ereport out of memory.
pg::BehindRecord* record_of(StallTrack* track, const pg::GuardedSession& session);

/// The session has kept others waiting for longer than ddl_max_stall. May ereport out of memory.
void act_on_stall(pg::StallCase* c, StallTrack* track);

/// The same of a prepared transaction, which can't be ended.
void act_on_prepared(const pg::StallCase& c, StallTrack* track);

/// Its statement waits for a lock that has turned up inside, and that has kept others waiting for
/// longer than ddl_lock_timeout.
///
/// \param own  the wait that is to end, which began then
void end_wait(const pg::StallCase& c, const pg::SnapshotWait& own, TimestampTz wait_start,
              StallTrack* track);

} // namespace lockguard::features
