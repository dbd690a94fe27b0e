// A guarded statement is watched while it runs: what heavy work it begins is shown to others
// (shmem/running_work), and, with pg_lockguard.ddl_heavy, told to its client or refused.
#pragma once

#include "guard/utility_call.h"

namespace lockguard::pg {

/// Runs the statement, in place of pg::run(), or of pg::run_copy() where it may be run again.
/// Errors: those of the statement; and 55000 before the first page of heavy work on a large
/// relation while readers or writers are kept out, with pg_lockguard.ddl_heavy = refuse.
void run_watched(const UtilityCall& call, CommandTag tag);
void run_copy_watched(const UtilityCall& call, CommandTag tag);

/// The heavy work that the latest watched statement of this session has begun last, for words about
/// its end: "rewriting public.orders". Null where it has begun none. Never ereports: the name was
/// looked up when the work began.
const char* latest_heavy_work();

} // namespace lockguard::pg
