// Which sessions share a snapshot with others: they have exported theirs (pg_export_snapshot()), or
// read with one that they have imported (SET TRANSACTION SNAPSHOT). A parallel pg_dump is made of
// such sessions.
//
// Such a session must not be ended. The snapshot keeps old rows from being removed, but a table
// that is rewritten has none of them: to an older snapshot it is empty, without any error. The only
// thing that keeps a rewrite away from the tables that are still to be read is the locks of these
// sessions.
#pragma once

#include "boundary/compat.h"
#include "sessions/session_id.h"

namespace lockguard::pg {

/// Does this statement import a snapshot? For a hook that sees it before it runs; a few
/// instructions.
inline bool imports_snapshot(const Node* statement) {
    const auto* set = reinterpret_cast<const VariableSetStmt*>(statement);
    return nodeTag(statement) == T_VariableSetStmt && set->kind == VAR_SET_MULTI &&
           strcmp(set->name, "TRANSACTION SNAPSHOT") == 0;
}

/// Has the session exported or imported a snapshot in that transaction?
///
/// An import is known where the session has published it (see publish_imported_snapshot() in
/// shmem/imported_snapshots): not where the library was not preloaded. An export is known in any
/// case. Where the file system does not answer, the session counts as one that has exported.
///
/// The answer is about the past: an active session may export in the next moment. Of one that was
/// idle before this was asked, and is found not to have been active since, it is firm.
///
/// Looks for a file: not to be called under any LWLock or spinlock. Never ereports.
bool shares_snapshot(const SessionId& session);

} // namespace lockguard::pg
