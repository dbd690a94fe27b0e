// What is said of a session that is ended, or whose statement is cancelled: to its client, and in
// the server log.
#pragma once

#include "core/words/text.h"

#include <cstdint>
#include <memory_resource>
#include <string_view>

namespace lockguard::core {

/// What the client of a session reads that was ended because a statement's patience was (with
/// pg_lockguard.ddl_on_timeout = terminate), or because somebody has decided so for it.
struct Eviction {
    std::int32_t pid;           // of the session with the statement
    std::string_view command;   // command tag
    std::string_view lock_mode; // "AccessExclusiveLock"
    std::uint32_t relation;     // OID; 0 where it is another kind of lock
    Microseconds waited;
    std::int32_t decided_by = 0; // pid; 0: nobody has decided so
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
/// statement of ": pid, role, database, application, idle time, and whom it blocked.
std::string_view termination_log_line(const Termination& termination,
                                      std::pmr::memory_resource& memory);

} // namespace lockguard::core
