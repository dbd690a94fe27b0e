// The end of a setting that the guard has changed for the length of a statement.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Gives a setting that was changed at the nest level (GUC_ACTION_SAVE) back. What the statement's
/// own functions have made of it by SET stays, as it would by the level's end alone; and what they
/// have by SET LOCAL, which would not, for the rest of the transaction. May ereport.
///
/// \param is_ours  it is as the guard has set it
inline void end_setting(const char* name, int nest_level, bool is_ours) {
    char* value = is_ours ? nullptr : pstrdup(GetConfigOption(name, false, false));
    AtEOXact_GUC(true, nest_level);
    if (value == nullptr)
        return;
    if (strcmp(value, GetConfigOption(name, false, false)) != 0)
        set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
    pfree(value);
}

/// For who finds the guard's value after that: a function of the statement has saved it, SET
/// another, and SET it again. What it meant was the value from before the statement.
/// (Whether it has SET it again for the session, or by SET LOCAL over another value of the session,
/// can't be told.)
inline void restore_setting(const char* name, const char* before) {
    set_config_option(name, before, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
}

} // namespace lockguard::pg
