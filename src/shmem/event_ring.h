// The record of what the guard and the worker did: events in shared memory
// (pg_lockguard.events_max). It stores; what is stored is for sessions/event_record.
//
// Two rings side by side, which share the places: a quarter is the worker's own, the rest the
// guard's. Who may run guarded statements can fill the latter, and so push out the record of
// others' statements, but not that of what the worker did.
//
// Each place has a word that says which event is in it, how often it has been renewed, and whether
// it is whole.
// - A writer takes the next number, and the next place of its ring, claims that by changing the
//   word, copies, and changes the word again. It waits for nobody: where another writer is still
//   busy in the place (it has been overtaken by a whole round), the event is lost, and counted as
//   such.
// - The writer of an event may renew it, in the same way, as long as nobody else has the place.
// - A reader copies, and takes the copy for good only where the word was the same before and after.
// A writer can't be interrupted while it copies, except by a crash, after which the shared memory
// is new. No lock, no ereport.
#pragma once

#include <span>
#include <string_view>

#include "shmem/segment.h"

namespace lockguard::pg {

enum class EventKind : int {
    ddl_waited,             // a guarded statement waits, and others do not wait behind it
    ddl_acquired,           // ... has got its locks after that
    ddl_timeout,            // ... has given up
    ddl_deadlock,           // ... was in a deadlock
    ddl_blocker_terminated, // ... has ended a session that was in its way
    ddl_decided,            // somebody has decided for it (pg_lockguard_decide)
    blocker_logged,         // the worker would have ended a session
    blocker_resolved,       // ... and that has ceased to block by itself
    blocker_terminated,     // the worker has ended a session
    blocker_spared,         // the worker has spared a session, for the reason given
    blocker_cancel_logged,  // the worker would have cancelled a session's statement
    blocker_cancelled,      // the worker has cancelled a session's statement
    blocker_not_freed,      // ... and the session still has the lock
    fuse_blown,             // the worker must not end any more sessions for a while
    stall_cancelled,        // a guarded statement, or one of its transaction, kept others waiting
    stall_logged,           // ... the worker would have ended the session, idle by then
    stall_terminated,       // ... the worker has ended it
    stall_spared,           // ... the worker has left it alone, for the reason given
};

const char* event_kind_name(EventKind kind);

/// One event. Plain data of fixed size; text is cut to fit, and ends with a NUL. Names are OIDs
/// here: who reads them resolves them. Make it with new_event().
struct Event {
    int64 id; // counts from 1; given by record_event()
    TimestampTz at;
    EventKind kind;
    int64 repeats;       // how often it has happened again, in place of events of their own
    TimestampTz last_at; // the last time

    // The statement that waited for the lock.
    int pid; // 0 where there is none
    Oid role;
    Oid database; // of the session, and of the relation
    char application[NAMEDATALEN];
    char command[64]; // "ALTER TABLE"; "" where unknown

    bool relation_known;
    Oid relation_database; // 0 for a shared catalog
    Oid relation;
    LOCKMODE lock_mode; // NoLock where unknown

    int64 waited;   // µs; -1 where it does not apply
    int64 stall;    // µs: how long others could be kept waiting; -1 likewise
    int32 attempts; // -1 likewise

    // Who was in the way.
    bool has_blocker;
    int blocker_pid; // 0 for a prepared transaction
    Oid blocker_role;
    char blocker_application[NAMEDATALEN];
    int blocker_state;  // a BackendState, or -1
    int64 blocker_idle; // µs; -1 where unknown
    char blocker_query[512];

    char reason[256];
    char lock_tree[2048];
};

/// With nothing in it but the kind.
void new_event(EventKind kind, Event* event);

/// Copies text and cuts it.
template <std::size_t N>
void set_event_text(char (&field)[N], std::string_view text) {
    field[text.copy(field, N - 1)] = '\0';
}

/// Which event is where. Plain data.
struct EventPlace {
    int64 id; // of the event; 0 for none
    int place;
    uint64 word; // of the place, with that event whole
};

/// Gives the event its number and time and puts it into its ring. Without shared memory it only
/// gives it the time. Never ereports.
EventPlace store_event(Event* event);

/// Puts the event in the place of an earlier state of the same one, which this process has stored.
/// Returns false where another event has that place, or it has been renewed too often. Never
/// ereports.
bool renew_event(EventPlace* place, const Event& event);

/// Reading: the events that are whole now, by their numbers. In the current memory context; may
/// ereport out of memory.
std::span<const EventPlace> recorded_events();

/// Copies one, renewed since or not. Returns false where another event has its place, or it is not
/// whole. Never waits.
bool read_event(const EventPlace& place, Event* event);

/// Puts an event of an earlier run of the server into its ring, which nobody else uses yet; in
/// ascending order of their numbers.
void restore_event(const Event& event);

extern const SharedPart kEventRingPart;

} // namespace lockguard::pg
