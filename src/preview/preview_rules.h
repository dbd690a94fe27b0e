// What a statement does that is not run to be previewed: told from its words and the catalogs.
#pragma once

#include "preview/preview_steps.h"
#include "preview/previewed_statement.h"

namespace lockguard::pg {

/// Adds the steps that are certain. Takes no lock on a relation that it tells of. Raises what the
/// statement itself would raise for a relation that does not exist (42P01), or is somebody else's
/// (42501).
///
/// \param why  as why_not_run() has it; not Unseen::nothing
void preview_by_rules(const PreviewedStatement& statement, core::Unseen why, PreviewedSteps* steps);

} // namespace lockguard::pg
