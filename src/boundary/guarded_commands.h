// Which commands are guarded: pg_lockguard.ddl_commands, read once when it is set.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Does pg_lockguard.ddl_commands name this command tag?
bool is_guarded_command(CommandTag tag);

/// The setting's hooks. The value is a list of command tags, separated by commas, or "all"; one
/// that the guard does not know is refused with a HINT that names those that it does.
bool check_ddl_commands(char** value, void** extra, GucSource source);
void assign_ddl_commands(const char* value, void* extra);

} // namespace lockguard::pg
