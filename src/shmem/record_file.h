// The record over a clean restart: events, incidents and accumulated waits, in a file beside the
// server's own statistics.
//
// The postmaster writes it when the server is shut down, after its last child has gone, and reads
// it when it makes the shared memory; then the file is removed: it is in no base backup of a
// running server, and what a crash leaves behind is never older than the crash. A file that is
// damaged, or of another version of the library, is dropped, with a line in the log.
#pragma once

namespace lockguard::pg {

/// Arranges for that. Called once, from _PG_init, after set_up_shared_state().
void set_up_record_file();

} // namespace lockguard::pg
