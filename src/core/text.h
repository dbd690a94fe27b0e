// The words that users read: in errors, in the server log, to the victim of a termination.
//
// Every function returns text in `memory`, NUL-terminated after its end, so that data() is a C
// string. All throw std::bad_alloc and nothing else.
#pragma once

#include "core/time.h"

#include <cstdint>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>

namespace lockguard::core {

/// "350 ms", "2.0 s", "30 s", "10 min", "3 h", "4 d": two significant figures at most below 10 s,
/// whole units above, rounded down; negative is "0 ms".
std::string_view duration_text(Microseconds duration, std::pmr::memory_resource& memory);
void append_duration(std::pmr::string& text, Microseconds duration);

/// A session or prepared transaction that stands in somebody's way, as far as the reader may see
/// it.
struct Culprit {
    std::int32_t pid;             // 0 for a prepared transaction
    std::string_view gid;         // of a prepared transaction, else empty
    std::string_view application; // may be empty
    std::string_view role;        // may be empty (a background process, a dropped role)
    std::string_view process;     // "autovacuum worker", ...; empty for a client backend
    bool visible;                 // may the reader see the fields below?
    bool idle_in_transaction;     // state is "idle in transaction" or its aborted form
    bool against_wraparound;      // an autovacuum worker that does not give way
    std::string_view state;       // as in pg_stat_activity, or "prepared"
    Microseconds state_age;       // how long in that state; negative where unknown
    std::string_view query;       // its query text; may be empty
};

/// What a guarded statement waited for in vain.
struct FailedWait {
    std::string_view command;   // command tag: "ALTER TABLE"
    std::string_view lock_mode; // "AccessExclusiveLock"
    std::string_view object;    // "public.users", or words for another kind of lock
    Microseconds waited;
    std::span<const Culprit> culprits; // the holders; empty where only the queue stood ahead
    /// Sessions that wait for what the statement's own transaction holds, and the longest wait
    /// among them, where that is the reason for the failure.
    std::uint32_t kept_waiting = 0;
    Microseconds kept_waiting_for = 0;
};

/// "ALTER TABLE waited 2.0 s for AccessExclusiveLock on public.users. Blocked by PID 4711 (app
/// "sidekiq", user shop, idle in transaction for 10 min): SELECT ...". Names at most
/// kNamedCulprits and counts the rest; queries are cut to kQueryBytes at a character boundary and
/// their white space is folded. Without culprits it says that the statement was queued behind other
/// requests.
std::string_view failed_wait_detail(const FailedWait& wait, std::pmr::memory_resource& memory);

/// What to do now, in one sentence, for the first culprit.
std::string_view failed_wait_hint(const FailedWait& wait, std::pmr::memory_resource& memory);

/// "Blocked by PID 4711 (...): SELECT ...; also by ..., and by 2 more.": the part of it that names
/// culprits, of whom there is one at least.
void append_culprits(std::pmr::string& text, std::span<const Culprit> culprits);

/// "Run COMMIT PREPARED 'gid' or ROLLBACK PREPARED 'gid'", without a full stop.
void append_prepared_advice(std::pmr::string& text, const Culprit& culprit);

/// A name that somebody has chosen, on one line; the second in double quotes.
void append_name(std::pmr::string& text, std::string_view name);
void append_quoted_name(std::pmr::string& text, std::string_view name);

inline constexpr std::size_t kNamedCulprits = 3;
inline constexpr std::size_t kQueryBytes = 100;

/// What a statement that waits at low priority does next.
enum class NextStep : std::uint8_t {
    try_locks,
    await_holders,
    retry,
    stand_in_queue,
    finish,
    end_holders
};

/// "tries again when a holder's transaction ends, at the latest in 250 ms" and the like.
///
/// \param within  the latest end of the present step; negative where it is open
std::string_view next_step_text(NextStep step, Microseconds within, bool against_wraparound,
                                std::pmr::memory_resource& memory);

/// What the client of a session reads that was ended because a statement's patience was (with
/// pg_lockguard.ddl_on_timeout = terminate).
struct Eviction {
    std::int32_t pid;           // of the session with the statement
    std::string_view command;   // command tag
    std::string_view lock_mode; // "AccessExclusiveLock"
    std::uint32_t relation;     // OID; 0 where it is another kind of lock
    Microseconds waited;
};
std::string_view eviction_detail(const Eviction& eviction, std::pmr::memory_resource& memory);

/// A session that the worker ends, or whose statement it cancels (or would), and why.
struct Termination {
    std::int32_t victim_pid; // 0 for a prepared transaction, which can only be spared
    std::string_view role;
    std::string_view database;
    std::string_view application;
    bool aborted;         // idle in transaction (aborted)
    bool stalled = false; // not idle: active, and waiting for its client
    bool active = false;  // not idle: at work on a statement, for `idle`
    Microseconds idle = 0;
    std::int32_t blocked_pid;         // the longest-blocked request
    std::string_view blocked_command; // command tag; empty where unknown
    std::string_view blocked_mode;    // "AccessExclusiveLock"
    std::uint32_t relation;           // OID; 0 where it waits for the transaction to end
    Microseconds blocked_for;
    std::uint32_t others_blocked;   // further sessions that wait on the victim
    std::uint32_t prepared_xid = 0; // of a prepared transaction
};

/// What the victim's client reads. Names no other role's query:
/// "pg_lockguard: idle in transaction for 2 min while blocking PID 4712 (ALTER TABLE,
/// AccessExclusiveLock on relation 16402) for 30 s."
std::string_view victim_detail(const Termination& termination, std::pmr::memory_resource& memory);
std::string_view victim_hint();

/// What the client of a cancelled statement reads after its victim_detail().
std::string_view cancel_hint();

/// The line in the server log, after "terminated ", "would terminate ", "spared " or "cancelled the
/// statement of ": pid, role,
/// database, application, idle time, and whom it blocked.
std::string_view termination_log_line(const Termination& termination,
                                      std::pmr::memory_resource& memory);

/// Copies text into memory and ends it with a NUL.
std::string_view keep_text(std::string_view text, std::pmr::memory_resource& memory);

} // namespace lockguard::core
