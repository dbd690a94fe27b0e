// Whose requests for relations count as blocked: pg_lockguard.blocker_request_modes, read once when
// it is set.
#pragma once

#include "core/lock_table.h"

#include "boundary/compat.h"

namespace lockguard::pg {

/// The modes that pg_lockguard.blocker_request_modes names.
core::ModeMask counting_request_modes();

/// The setting's hooks. The value is a list of lock modes as pg_locks names them, in upper or lower
/// case, separated by commas: of those that stop all writers. Others are refused with a HINT that
/// names these. By an empty list no request for a relation counts.
bool check_request_modes(char** value, void** extra, GucSource source);
void assign_request_modes(const char* value, void* extra);

} // namespace lockguard::pg
