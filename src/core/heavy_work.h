// What a DDL statement does that takes longer the larger the relation is, and the words for it.
//
// PostgreSQL says so itself, by messages of level DEBUG1 or DEBUG2 before it reads the first page.
// They are known here by their ids (the untranslated formats). Sources of the ids: tablecmds.c
// (ATRewriteTable, validateForeignKeyConstraint), index.c (index_build), cluster.c
// (copy_table_data; 19: repack.c).
#pragma once

#include "core/words/text.h"

#include <cstdint>
#include <memory_resource>
#include <string_view>

namespace lockguard::core {

enum class HeavyKind : std::uint8_t {
    none,
    rewrite,
    scan,
    build_index,
    validate_foreign_key,
    run_query, // CREATE TABLE AS, REFRESH: announced by the executor, not by a message
};

/// What the text of a message names, so that the relation can be told from it.
enum class HeavySubject : std::uint8_t {
    table,           // the table, by its name alone
    index_and_table, // the index, then its table, each by its name alone
    constraint,      // the foreign key, by its name alone
    schema_table,    // "schema.table"
};

/// A message that announces heavy work. A kind of `none` says that it is another one.
struct HeavyMessage {
    HeavyKind kind;
    HeavySubject subject;
};

/// \param id  ErrorData's message_id
HeavyMessage heavy_message(std::string_view id);

/// Does the text of a message name this table (HeavySubject::table, schema_table) or this index of
/// this table (index_and_table)? Names can contain anything, also quotes: it may be true for more
/// than one.
///
/// \param name   of the table or of the index
/// \param outer  the schema, for schema_table; the index's table, for index_and_table; else empty
bool names_subject(HeavySubject subject, std::string_view message, std::string_view name,
                   std::string_view outer);

/// The foreign key in the text of a message of HeavySubject::constraint; empty where it is none.
std::string_view named_constraint(std::string_view message);

/// As ddl_preview() has it in the column `action`: "rewrite", "build index" and so on.
const char* action_name(HeavyKind kind);

/// "rewriting public.orders", "building an index on public.orders" and so on.
std::string_view work_text(HeavyKind kind, std::string_view relation,
                           std::pmr::memory_resource& memory);

/// "512 bytes", "16 kB", "1.2 GB": as pg_size_pretty() has it, but with one decimal below 10.
std::string_view size_text(std::int64_t bytes, std::pmr::memory_resource& memory);

/// Whom a lock stops for as long as it is held. Numbered by strength.
enum class Stopped : std::uint8_t { nobody, ddl, writers, everybody };

/// Of the modes of the lock manager, by their numbers (1 is ACCESS SHARE, 8 ACCESS EXCLUSIVE; 0
/// none).
Stopped stopped_by(int lock_mode);

/// As ddl_preview() has it in the column `stops`; null for nobody.
const char* stopped_text(Stopped stopped);

/// Is the relation in a list of them, which is separated by commas? Each is written as in
/// HeavyStatement::relation; white space around it does not count.
bool confirms(std::string_view list, std::string_view relation);

/// A guarded statement that is about to do heavy work while it keeps others out.
struct HeavyStatement {
    std::string_view command; // command tag
    HeavyKind kind;
    std::string_view relation;  // "public.orders"
    std::int64_t size;          // bytes; negative where unknown
    std::string_view locked;    // the relation on which the lock is held
    std::string_view lock_mode; // "AccessExclusiveLock"
    Stopped stopped;            // by that lock
    std::int64_t min_size;      // bytes: pg_lockguard.ddl_heavy_min_size
    std::string_view advice;    // may be empty
};

/// "ALTER TABLE would rewrite public.orders while it stops readers and writers".
std::string_view heavy_message_text(const HeavyStatement& statement,
                                    std::pmr::memory_resource& memory);
/// "public.orders has 12 GB, more than pg_lockguard.ddl_heavy_min_size (1 GB). AccessExclusiveLock
/// on public.orders would be held all the time."
std::string_view heavy_detail_text(const HeavyStatement& statement,
                                   std::pmr::memory_resource& memory);
/// The advice, and the line that lets it pass.
std::string_view heavy_hint_text(const HeavyStatement& statement,
                                 std::pmr::memory_resource& memory);

} // namespace lockguard::core
