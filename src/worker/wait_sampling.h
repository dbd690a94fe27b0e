// Accumulated waits (pg_stat_lockguard_waits): what a look adds to them. How, is in
// core/wait_account; they are kept in shmem/wait_table.
#pragma once

#include "core/wait_account.h"

#include "worker/incident_capture.h"

namespace lockguard::pg {

/// Adds what the look shows to the table.
///
/// \param before     open waits of the look before, which was at `looked_at` (0: there was none)
/// \param keep       where the result lives: the open waits of this one
std::span<const core::OpenWait> sample_waits(std::span<const core::OpenWait> before,
                                             TimestampTz looked_at, const IncidentScene& scene,
                                             core::Microseconds next_gap, MemoryContext keep);

} // namespace lockguard::pg
