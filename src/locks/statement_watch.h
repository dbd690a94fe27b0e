// Keeps the statements of this session's transaction, where pg_lockguard.track_statements asks for
// it (shmem/tracked_statements).
#pragma once

namespace lockguard::pg {

/// Sets the hooks, for all sessions; none where statements are not kept. Called once, from _PG_init
/// in the postmaster, after the hooks of the guard have been set: a statement is kept before it is
/// guarded.
void install_statement_watch();

} // namespace lockguard::pg
