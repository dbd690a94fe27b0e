// The polite way to do what a DDL statement does: without a long look at, or copy of, a table
// while a lock keeps others out.
#pragma once

#include "core/words/text.h"

#include <cstdint>
#include <memory_resource>
#include <string_view>

namespace lockguard::core {

enum class DdlRemedy : std::uint8_t {
    none,
    not_valid_check,       // ADD CHECK … NOT VALID, then VALIDATE
    not_valid_foreign_key, // the same for a foreign key
    check_then_not_null,   // CHECK … NOT VALID, VALIDATE, SET NOT NULL, DROP the CHECK
    not_valid_not_null,    // from PostgreSQL 18: NOT NULL … NOT VALID, VALIDATE
    concurrently,          // CREATE INDEX CONCURRENTLY
    index_by_partition,    // ON ONLY the parent, CONCURRENTLY on each partition, ATTACH
    using_index,           // CREATE UNIQUE INDEX CONCURRENTLY, then ADD … USING INDEX
    not_null_first,        // … and a primary key on columns that may be null as yet
    new_column,            // a new column and a backfill
    default_then_backfill, // the column without a default, the default, a backfill
    attach_with_check,     // a matching CHECK on the partition, and on the default partition
    check_on_default,      // a matching CHECK on the default partition
    reindex_concurrently,
    refresh_concurrently,
    drop_concurrently, // DROP INDEX CONCURRENTLY
    detach_concurrently,
    create_then_attach, // CREATE TABLE … LIKE, then ATTACH PARTITION
    lock_only_parent,   // LOCK TABLE ONLY, TRUNCATE by partition and the like
    query_elsewhere,    // CREATE TABLE, then INSERT … SELECT
};

/// What the words are about. Empty where unknown; then the words are general ones.
struct RemedySubject {
    std::string_view relation; // "public.orders", quoted where it has to be
    std::string_view column;   // a quoted identifier
};

/// One or two sentences; empty for DdlRemedy::none.
std::string_view advice_text(DdlRemedy remedy, const RemedySubject& subject,
                             std::pmr::memory_resource& memory);

/// Why a preview does not see the end of the statement.
enum class Unseen : std::uint8_t {
    nothing,           // it does
    behind_heavy_work, // it was stopped before the first page of that
    behind_lock,       // a lock was not free
    behind_deadline,   // pg_lockguard.preview_max_hold
    commits,           // CONCURRENTLY and the like: it can't be rolled back. By rules, as the rest
    copies_files,      // SET TABLESPACE: says nothing before it copies
    domain,            // ALTER DOMAIN: says nothing before it scans
    default_partition, // CREATE TABLE … PARTITION OF: likewise
    many_partitions,   // it would lock more than kMostPartitions
    runs_triggers,     // TRUNCATE with triggers
    foreign_table,     // TRUNCATE of a foreign table
    keeps_lock,        // on a sequence: as long as the transaction, also where it is rolled back
    mapped_catalog,    // REINDEX of pg_class and the like: refused in a subtransaction
};

/// A table with more partitions than this is not previewed by running the statement.
inline constexpr int kMostPartitions = 200;

/// A sentence; empty for Unseen::nothing and behind_heavy_work (the row says it).
///
/// \param max_hold  pg_lockguard.preview_max_hold
std::string_view unseen_text(Unseen unseen, Microseconds max_hold,
                             std::pmr::memory_resource& memory);

} // namespace lockguard::core
