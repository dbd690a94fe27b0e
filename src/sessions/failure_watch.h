// What of a transaction's failure others may want to know: see shmem/failure_notes.
#pragma once

namespace lockguard::pg {

/// Installs the emit_log_hook. Called once, from _PG_init, where the library is preloaded.
void install_failure_watch();

} // namespace lockguard::pg
