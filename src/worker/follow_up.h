// What becomes of blockers that the worker has dealt with, as far as that is not plain:
// - Those that it would have ended, or whose statement it would have cancelled (a rehearsal), until
//   they cease to block by themselves: so an administrator sees whether it would have been needed.
// - Those whose statement it has cancelled, until the lock is free. Under a savepoint that is later
//   than the lock it is not, and a statement may catch the error, or not come to serve it.
#pragma once

#include "shmem/event_ring.h"
#include "worker/last_check.h"

namespace lockguard::features {

enum class FollowUpKind { rehearsed_end, rehearsed_cancel, cancel };

struct FollowUp {
    FollowUpKind kind;
    pg::BlockerIdentity blocker;
    pg::RequestIdentity request;
    int64 since;      // steady_now()
    pg::Event* event; // as it was recorded, in TopMemoryContext
};

/// All zero at first. Whoever comes when it is full takes the place of the oldest.
struct FollowUps {
    static constexpr int kMost = 100;
    FollowUp entries[kMost];
    int count;
};

/// Notes a session for review_follow_ups(). Copies the event; may ereport out of memory.
void follow_up(FollowUps* list, FollowUpKind kind, const pg::BlockerIdentity& blocker,
               const pg::RequestIdentity& request, const pg::Event& event);

void forget_follow_ups(FollowUps* list);

/// Looks what has become of them, and records and counts it: who has ceased to block by itself
/// after a rehearsal (blocker_resolved), and who still has the lock after a cancel
/// (blocker_not_freed). What it has reported, it forgets.
///
/// \param context  for words, reset by the caller
void review_follow_ups(MemoryContext context, FollowUps* list);

} // namespace lockguard::features
