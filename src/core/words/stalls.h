// What users read of a guarded statement, or of the transaction that keeps its locks, when it has
// kept others waiting for longer than pg_lockguard.ddl_max_stall.
#pragma once

#include "core/time.h"

#include <cstdint>
#include <memory_resource>
#include <string_view>

namespace lockguard::core {

/// The message of the error, in place of the server's "... due to user request". Static text.
inline constexpr std::string_view kStallMessage =
    "canceling statement because it kept others waiting for too long";

/// What the session did while it kept others waiting.
enum class StallKind : std::uint8_t {
    guarded,  // it ran the guarded statement
    later,    // it ran something else, later in the transaction
    idle,     // nothing: it was idle in the transaction
    stalled,  // nothing: it waited for its client in the midst of a later statement
    prepared, // the transaction has been prepared
};

struct Stall {
    StallKind kind;
    std::string_view command;   // tag of the guarded statement: "ALTER TABLE"; may be empty
    std::uint32_t sessions;     // that were kept waiting
    Microseconds longest;       // for up to so long
    std::string_view lock_mode; // that the longest of them wants: "AccessShareLock"
    std::string_view object;    // "public.users", "relation 16402", ...
    Microseconds limit;         // pg_lockguard.ddl_max_stall
};

/// "ALTER TABLE kept 37 sessions waiting, for up to 5.0 s, for AccessShareLock on public.users; the
/// limit (pg_lockguard.ddl_max_stall) is 5.0 s." Of a transaction: "Its transaction, which has run
/// ALTER TABLE, kept ... waiting".
std::string_view stall_detail(const Stall& stall, std::pmr::memory_resource& memory);

/// What to do instead, for whoever reads the error.
std::string_view stall_hint(const Stall& stall, std::pmr::memory_resource& memory);

/// What the client of a session that is ended for it reads: as the detail, with a beginning that
/// says who speaks.
std::string_view stall_victim_detail(const Stall& stall, std::pmr::memory_resource& memory);

} // namespace lockguard::core
