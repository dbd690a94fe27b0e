// Tells the client of a session that is ended why: a DETAIL and a HINT for the FATAL that it gets.
// The same for a statement that is cancelled (sessions/statement_cancel), and its ERROR.
#pragma once

namespace lockguard::features {

/// Installs emit_log_hook. Called once, from _PG_init, while shared_preload_libraries are loaded.
void install_victim_notice();

} // namespace lockguard::features
