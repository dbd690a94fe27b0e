// The worker: ends sessions that sit idle in a transaction and block a request for ACCESS
// EXCLUSIVE.
#pragma once

namespace lockguard::features {

/// Registers the background worker. Called once, from _PG_init, while shared_preload_libraries are
/// loaded.
void register_blocker_worker();

} // namespace lockguard::features
