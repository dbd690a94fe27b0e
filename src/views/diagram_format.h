// The languages of lock_graph().
#pragma once

#include "core/words/pictures.h"

#include "boundary/compat.h"

namespace lockguard::features {

/// The format of that name. Raises 22023 where there is none.
core::DiagramFormat diagram_format(const text* name);

} // namespace lockguard::features
