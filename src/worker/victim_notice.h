// Tells the client of a session that the worker ends why it is ended: a DETAIL and a HINT for the
// FATAL that it gets.
#pragma once

namespace lockguard::features {

/// Installs emit_log_hook. Called once, from _PG_init, while shared_preload_libraries are loaded.
void install_victim_notice();

} // namespace lockguard::features
