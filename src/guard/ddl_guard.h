// The DDL guard: pg_lockguard.ddl_mode. Runs the statements that pg_lockguard.ddl_commands names so
// that they can't stand in a lock queue for long, and says who was in the way.
#pragma once

namespace lockguard::features {

/// Puts the guard into the chain of ProcessUtility hooks. Called once, from _PG_init.
void install_ddl_guard();

} // namespace lockguard::features
