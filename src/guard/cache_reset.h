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

#include "boundary/compat.h"

namespace lockguard::pg {

/// Where a statement began.
struct CommandMark {
    LocalTransactionId transaction;
    int nest_level;
    CommandId command;
};

/// Before a statement that may change catalogs. May ereport.
CommandMark begin_command();

/// After its error: where the (sub)transaction in which it ran has written something, and its
/// caches have been brought up to date since, they are emptied at the end of its abort (and at that
/// of any inside of it that is rolled back before): the catalog caches, and the relation cache.
/// Never ereports.
void command_failed(CommandMark mark);

} // namespace lockguard::pg
