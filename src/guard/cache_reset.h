// What a statement has changed and does not come to be is not to stay in this session's caches.
//
// PostgreSQL brings them up to date after each command, and only then notes what the abort has to
// take back in them (CommandEndInvalidationMessages()). An error in between leaves entries that
// have been read anew: with a file that is removed by the abort, to which the session's next INSERT
// goes, or from which its next rewrite copies no row; with a column that was not added. It comes
// where an entry is read from a page that another process is just reading (WaitIO() looks for
// interrupts), or as any error of that reading: seldom, but the guard cancels statements, and tries
// again in the same session.
#pragma once

namespace lockguard::pg {

/// Before a statement that may change catalogs. May ereport.
void prepare_cache_reset();

/// After its error: where the (sub)transaction at this nest level, in which it ran, has written
/// something, the catalog and relation caches are emptied at the end of its abort, and of any
/// inside of it. Never ereports.
void reset_caches_at_abort(int nest_level);

} // namespace lockguard::pg
