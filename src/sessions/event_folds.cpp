#include "sessions/event_folds.h"

#include "core/time.h"

namespace lockguard::pg {

namespace {

// How soon it must come again to be one with the earlier one (µs).
constexpr core::Microseconds kSoon = 1000 * 1000;

/// What this process has stored lately: what makes a repeat, and where it is.
struct Fold {
    EventPlace place; // with id 0 without shared memory: the log alone has it
    EventKind kind;
    char command[sizeof(Event::command)];
    bool used;
    bool relation_known;
    Oid relation_database;
    Oid relation;
    int blocker_pid; // of an ended session; else 0
    TimestampTz at;
    TimestampTz last_at;
    int64 repeats;
};

// Of this process alone. Whoever goes through more relations than this within a second gets an
// entry for each.
constexpr int kFolds = 64;
Fold folds[kFolds];

bool can_be_folded(EventKind kind) {
    switch (kind) {
    case EventKind::ddl_waited:
    case EventKind::ddl_acquired:
    case EventKind::ddl_timeout:
    case EventKind::ddl_deadlock:
    case EventKind::ddl_blocker_terminated:
        return true;
    default:
        return false;
    }
}

/// Who is in the way may be another one each time; who is ended is what the event is about.
int significant_blocker(const Event& event) {
    return event.kind == EventKind::ddl_blocker_terminated ? event.blocker_pid : 0;
}

bool is_repeat(const Fold& fold, const Event& event, TimestampTz now) {
    return fold.used && fold.kind == event.kind && fold.relation_known == event.relation_known &&
           fold.relation_database == event.relation_database && fold.relation == event.relation &&
           fold.blocker_pid == significant_blocker(event) &&
           strcmp(fold.command, event.command) == 0 && fold.last_at <= now &&
           now - fold.last_at <= kSoon;
}

/// The one that has not been used for longest.
Fold* oldest_fold() {
    Fold* oldest = &folds[0];
    for (Fold& fold : folds) {
        if (fold.last_at < oldest->last_at)
            oldest = &fold;
    }
    return oldest;
}

/// Folds the event into the earlier one, where that is still there.
bool fold_into(Fold* fold, Event* event, TimestampTz now) {
    event->id = fold->place.id;
    event->at = fold->at;
    event->last_at = now;
    event->repeats = fold->repeats + 1;
    if (fold->place.id != 0 && !renew_event(&fold->place, *event)) {
        fold->used = false;
        event->repeats = 0;
        return false;
    }
    fold->last_at = now;
    fold->repeats = event->repeats;
    return true;
}

} // namespace

void store_or_fold_event(Event* event) {
    if (!can_be_folded(event->kind)) {
        store_event(event);
        return;
    }
    const TimestampTz now = GetCurrentTimestamp();
    for (Fold& fold : folds) {
        if (is_repeat(fold, *event, now)) {
            if (fold_into(&fold, event, now))
                return;
            break;
        }
    }
    const EventPlace place = store_event(event);
    if (place.id == 0 && event->id != 0) // it was lost
        return;
    Fold* fold = oldest_fold();
    *fold = {place,
             event->kind,
             {},
             true,
             event->relation_known,
             event->relation_database,
             event->relation,
             significant_blocker(*event),
             event->at,
             event->at,
             0};
    memcpy(fold->command, event->command, sizeof(fold->command));
}

} // namespace lockguard::pg
