// The record over a clean restart: events, incidents and accumulated waits, in a file beside the
// server's own statistics.
//
// The postmaster writes it when the server is shut down, after its last child has gone, and reads
// it when it makes the shared memory; then the file is removed, durably: it is in no base backup of
// a running server. A file that is damaged, of another version of the library, or that stands there
// though the server was not shut down (the control file says so), is dropped, with a line in the
// log: nothing that is older than a crash comes back after it.
#pragma once

namespace lockguard::pg {

/// Arranges for that. Called once, from _PG_init, after set_up_shared_state().
void set_up_record_file();

} // namespace lockguard::pg
