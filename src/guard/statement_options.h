// The options that stand in parentheses before the rest of a statement.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Is the boolean option on? Of one that is given twice the last counts, in ExecReindex(),
/// ExecVacuum() and ExecRepack(). The word CONCURRENTLY after the options is the last in the list.
/// May ereport, for a value that is none.
bool has_option(const List* options, const char* name);

inline bool says_concurrently(const List* options) {
    return has_option(options, "concurrently");
}

} // namespace lockguard::pg
