// Runs a statement in a subtransaction that is always rolled back, to see which locks it takes and
// how its heavy work, if it has any, begins.
#pragma once

#include "preview/preview_steps.h"
#include "preview/previewed_statement.h"

namespace lockguard::pg {

/// Takes the locks that are known beforehand if they are free (for a while it looks again
/// and again, holding none), waits a millisecond for each other one, and goes on until the
/// statement is done, begins heavy work, or has run for `max_hold` (ms). Errors of the statement go
/// on, and so does whatever was sent to the session meanwhile.
///
/// Allocates in the current memory context. Needs a snapshot. Not inside of a guarded statement
/// (limits on waits do not nest).
void run_preview(const PreviewedStatement& statement, int max_hold, PreviewedSteps* steps);

} // namespace lockguard::pg
