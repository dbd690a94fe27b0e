// Who stands in somebody's way, in words.
#pragma once

#include "core/words/text.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lockguard::core {

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

    // Of its transaction: the statement that touched the awaited relation first, where that is
    // known, and is not the query; else empty. The age is negative where there is none.
    std::string_view first_statement = {};
    Microseconds first_statement_age = kNoAge;
};

inline constexpr std::size_t kNamedCulprits = 3;
inline constexpr std::size_t kQueryBytes = 100;

/// Is it a prepared transaction?
inline bool is_prepared(const Culprit& culprit) {
    return culprit.pid == 0;
}

/// "Blocked by PID 4711 (...): SELECT ...; also by ..., and by 2 more.": the part of it that names
/// culprits, of whom there is one at least. Queries are cut to kQueryBytes at a character boundary,
/// and their white space is folded.
void append_culprits(std::pmr::string& text, std::span<const Culprit> culprits);

/// "Run COMMIT PREPARED 'gid' or ROLLBACK PREPARED 'gid'", without a full stop.
void append_prepared_advice(std::pmr::string& text, const Culprit& culprit);

} // namespace lockguard::core
