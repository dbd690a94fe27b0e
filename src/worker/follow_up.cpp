#include "worker/follow_up.h"

#include <algorithm>

#include "core/words/text.h"
#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "boundary/settings.h"
#include "sessions/backend_status.h"
#include "shmem/counters.h"
#include "worker/blocker_cancel.h"
#include "worker/named_event.h"

namespace lockguard::features {

namespace {

// How long a statement may take to serve a cancel before that is reported, at least (µs);
// blocker_min_wait may be longer.
constexpr int64 kLeastPatience = 1000 * 1000;

void forget(FollowUps* list, int index) {
    pfree(list->entries[index].event);
    list->count--;
    for (int i = index; i < list->count; i++)
        list->entries[i] = list->entries[i + 1];
}

/// What is to be said of one: null where it is watched further.
struct Finding {
    const char* what; // in words that follow "event 12: "
    bool needless;    // it would have gone without us
};

Finding rehearsed_end(const FollowUp& entry) {
    switch (pg::outcome_of(entry.blocker, entry.request)) {
    case pg::Outcome::still_blocks:
        break;
    case pg::Outcome::transaction_over:
        return {"it ended its transaction by itself", true};
    case pg::Outcome::went_on:
        return {"it went on by itself", true};
    case pg::Outcome::lock_released:
        return {"it released the lock by itself", true};
    case pg::Outcome::request_gone:
        return {"the request that it blocked was given up", false};
    }
    return {};
}

Finding rehearsed_cancel(const FollowUp& entry) {
    switch (pg::outcome_of_cancel(entry.blocker, entry.request)) {
    case pg::CancelOutcome::still_runs:
        break;
    case pg::CancelOutcome::transaction_over:
        return {"it ended its transaction by itself", true};
    case pg::CancelOutcome::keeps_lock:
        return {"its statement ended by itself", true};
    case pg::CancelOutcome::lock_released:
        return {"it released the lock by itself", true};
    case pg::CancelOutcome::request_gone:
        return {"the request that it blocked was given up", false};
    }
    return {};
}

/// Why a session still has the lock, out of the statement that was cancelled.
const char* why_kept(const pg::BlockerIdentity& blocker) {
    pg::BackendStateOnly state;
    if (pg::read_backend_state(blocker.session, &state) &&
        state.state == STATE_IDLEINTRANSACTION_ABORTED)
        return "its statement was cancelled, but the transaction keeps the lock, which it took "
               "before a savepoint";
    return "its statement is over, but the transaction goes on and keeps the lock";
}

struct AfterCancel {
    const char* what; // null where there is nothing to be said
    bool over;
};

AfterCancel after_cancel(const FollowUp& entry) {
    switch (pg::outcome_of_cancel(entry.blocker, entry.request)) {
    case pg::CancelOutcome::still_runs: {
        int64 patience = Max(int64{pg::settings.blocker_min_wait} * 1000, kLeastPatience);
        if (pg::steady_now() - entry.since < patience)
            return {nullptr, false};
        return {"its statement goes on all the same", true};
    }
    case pg::CancelOutcome::keeps_lock:
        return {why_kept(entry.blocker), true};
    default:
        return {nullptr, true}; // as intended
    }
}

const char* time_since(MemoryContext context, const FollowUp& entry) {
    core::Microseconds since = Max(pg::steady_now() - entry.since, 0);
    std::string_view text = pg::call_core(context, [since](std::pmr::memory_resource& memory) {
        return core::duration_text(since, memory);
    });
    return text.data();
}

/// The event about an earlier one. The caller adds the reason.
pg::Event later_event(const FollowUp& entry, pg::EventKind kind) {
    pg::Event event = *entry.event;
    core::Microseconds since =
        std::max<core::Microseconds>(core::age(event.at, GetCurrentTimestamp()), 0);
    event.kind = kind;
    event.waited += since;
    if (event.blocker_idle >= 0)
        event.blocker_idle += since;
    event.lock_tree[0] = '\0';
    return event;
}

/// Returns whether the entry is done with.
bool review_rehearsal(MemoryContext context, const FollowUp& entry) {
    bool cancel = entry.kind == FollowUpKind::rehearsed_cancel;
    Finding finding = cancel ? rehearsed_cancel(entry) : rehearsed_end(entry);
    if (finding.what == nullptr)
        return false;
    if (finding.needless)
        pg::count(cancel ? pg::Counter::cancel_rehearsals_needless
                         : pg::Counter::rehearsals_needless);
    const char* duration = time_since(context, entry);
    pg::Event event = later_event(entry, pg::EventKind::blocker_resolved);
    snprintf(event.reason, sizeof(event.reason), "event " INT64_FORMAT ": %s after %s",
             entry.event->id, finding.what, duration);
    pg::record_with_names(&event);
    ereport(LOG, (errmsg("pg_lockguard: PID %d, %s: %s after %s", event.blocker_pid,
                         cancel ? "whose statement would have been cancelled"
                                : "which would have been terminated",
                         finding.what, duration)));
    return true;
}

bool review_cancel(MemoryContext context, const FollowUp& entry) {
    AfterCancel after = after_cancel(entry);
    if (after.what == nullptr)
        return after.over;
    pg::count(pg::Counter::cancels_in_vain);
    const char* duration = time_since(context, entry);
    pg::Event event = later_event(entry, pg::EventKind::blocker_not_freed);
    pg::set_event_blocker(&event, entry.blocker.session.procno, entry.blocker.session.pid);
    snprintf(event.reason, sizeof(event.reason), "event " INT64_FORMAT ", %s ago: %s",
             entry.event->id, duration, after.what);
    pg::record_with_names(&event);
    ereport(LOG, (errmsg("pg_lockguard: PID %d, whose statement was sent a cancel %s ago: %s",
                         event.blocker_pid, duration, after.what)));
    return true;
}

} // namespace

void follow_up(FollowUps* list, FollowUpKind kind, const pg::BlockerIdentity& blocker,
               const pg::RequestIdentity& request, const pg::Event& event) {
    auto* copy = static_cast<pg::Event*>(MemoryContextAlloc(TopMemoryContext, sizeof(pg::Event)));
    *copy = event;
    if (list->count == FollowUps::kMost)
        forget(list, 0);
    list->entries[list->count++] = {kind, blocker, request, pg::steady_now(), copy};
}

void forget_follow_ups(FollowUps* list) {
    while (list->count > 0)
        forget(list, list->count - 1);
}

void review_follow_ups(MemoryContext context, FollowUps* list) {
    for (int i = list->count - 1; i >= 0; i--) {
        const FollowUp& entry = list->entries[i];
        bool over = entry.kind == FollowUpKind::cancel ? review_cancel(context, entry)
                                                       : review_rehearsal(context, entry);
        if (over)
            forget(list, i);
    }
}

} // namespace lockguard::features
