// The statements of present transactions (pg_lockguard.track_statements): each backend writes on a
// slot of its own, everybody reads. The part is empty where none are kept.
//
// No lock: a slot has a change counter, which is odd while its backend writes. Who reads copies the
// slot, and copies again where the counter was odd or has gone on. So writing never waits, and
// whatever a backend leaves behind keeps nobody waiting either.
#pragma once

#include <span>
#include <string_view>

#include "boundary/settings.h"
#include "shmem/segment.h"

namespace lockguard::pg {

/// What is kept of a statement's text, and of how many relations it is kept who touched them first.
inline constexpr int kTrackedStatementBytes = 200;
inline constexpr int kTrackedRelations = 64;

/// A statement of a transaction.
struct TrackedStatement {
    TimestampTz began;
    uint32 number; // in its transaction, from 1
    CommandTag command;
    uint16 size; // of the text
    bool cut;    // there was more of it
    char text[kTrackedStatementBytes];
};

/// Which statement touched a relation first: took its first lock on it that has not been given back
/// by ROLLBACK TO SAVEPOINT.
struct FirstTouch {
    Oid relation;     // of the session's database
    uint32 statement; // 0: it is not known which
    SubTransactionId subtransaction;
};

/// What one backend shows. Copied as a whole: plain data.
struct TrackedTransaction {
    int pid;
    LocalTransactionId lxid; // with pid, what makes it certain
    uint32 last;             // the number of the last statement; 0 where there is none
    uint16 statement_count;
    uint16 touch_count;
    TrackedStatement statements[kMostTrackedStatements]; // oldest first
    FirstTouch touches[kTrackedRelations];
};

/// Are statements kept at all?
bool tracks_statements();

/// The present statement of this backend's transaction begins. Where it is the first of its
/// transaction, what the slot had before is gone. Never ereports. Only where tracks_statements().
///
/// \param text  valid in this database's encoding; no more than kTrackedStatementBytes
/// \param cut   there was more of it
void track_statement(CommandTag command, std::string_view text, bool cut);

/// Is the slot that of this transaction, so that a touch can be noted?
bool has_tracked_statements();

/// Is it known already which statement touched the relation, or can it not be known any more, for
/// want of room?
bool is_touch_known(Oid relation);
bool is_room_for_touches();

/// The statement that was tracked last has touched these relations, or one that is not known.
/// Those that are known already are left as they are. Never ereports.
void note_touches(std::span<const Oid> relations, bool by_last_statement);

/// Relations have been touched for which there was no room. Never ereports.
void note_lost_touches();

/// A subtransaction of this backend has been rolled back, and its locks with it. Never ereports.
void forget_touches_since(SubTransactionId subtransaction);

/// That of a PGPROC, where it has any, and is still in that transaction. What it returns is in
/// order, whatever was in the slot; texts are as their backend wrote them, in the encoding of its
/// database. Never ereports.
bool read_tracked_transaction(int procno, TrackedTransaction* transaction);

/// The statement that touched the relation first; null where that is not known any more.
const TrackedStatement* first_to_touch(const TrackedTransaction& transaction, Oid relation);

extern const SharedPart kTrackedStatementsPart;

} // namespace lockguard::pg
