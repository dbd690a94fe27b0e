// The text that ddl_preview() is given: one DDL statement, and whether it may be run to see what it
// does.
#pragma once

#include "core/words/ddl_advice.h"

#include "boundary/compat.h"
#include "guard/heavy_watch.h"

namespace lockguard::pg {

struct PreviewedStatement {
    const char* text;
    RawStmt* raw; // its tree is as the parser has made it
    CommandTag tag;

    Node* node() const { return raw->stmt; }
};

/// Parses the text. Raises 42601 for a text that has no statement, or more than one, or a fault in
/// its syntax (with its position); 0A000 for a statement that is not previewed.
PreviewedStatement parse_previewed(const char* text);

/// An error context callback, for as long as the statement is worked on: makes a position in an
/// error one in the statement's own text. The argument is that text.
void point_into_previewed(void* text);

/// CREATE TABLE AS, CREATE MATERIALIZED VIEW and SELECT INTO: what the statement makes; else null.
const IntoClause* into_clause_of(const Node* statement);

/// The table that VACUUM FULL names, where it names one and nothing else; else null.
const RangeVar* fully_vacuumed_table(const VacuumStmt* statement);

/// Why it is not to be run; Unseen::nothing where it may be. Looks names up without a lock. May
/// ereport.
core::Unseen why_not_run(const Node* statement);

/// size_of_work() of a relation that is not locked yet: is so for the moment of the look, without
/// waiting, because the relation cache is to be asked with a lock only, and has to hear of what
/// others have done to the relation. Where the lock is not free it is looked at without.
WorkSize size_of_unlocked(core::HeavyKind kind, Oid relation);

/// The default partition that CREATE TABLE … PARTITION OF would scan, if it has rows; InvalidOid
/// where there is none. Keeps no lock. May ereport.
Oid filled_default_partition(const CreateStmt* statement);

} // namespace lockguard::pg
