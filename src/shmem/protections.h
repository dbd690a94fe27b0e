// Who is not to be ended: pg_lockguard.protected of each session and of the configuration files,
// where other processes can read it. No lock: each is one atomic word.
#pragma once

#include "shmem/segment.h"

namespace lockguard::pg {

/// What a session says of itself with pg_lockguard.protected.
enum class Protection {
    as_server, // nothing: what the configuration files say holds
    off,
    on,
};

/// Tells other processes what this session says of itself. Never fails; without shared memory, or
/// while this process has no PGPROC, it does nothing.
void publish_protection(Protection protection);

/// The same, of pg_lockguard.protected as it has been assigned. What the session has in common with
/// the whole server others know themselves; that also makes it right in a session that has not
/// assigned anything yet.
///
/// \param whole_server  the value comes from where every process of the server reads the same
void protection_changed(bool whole_server, bool value);

/// What a session has published. Never ereports.
///
/// \param session_start  when the session began, as in its status: another one, that had the same
///                       PGPROC before, is not mistaken for it
Protection protection_of(int procno, TimestampTz session_start);

/// Tells other processes what the configuration files say of pg_lockguard.protected, as this
/// process has read them: one that is in no database and sets nothing itself.
void publish_server_protection();

/// What holds for a session that says nothing of itself. Where nobody has published it, what this
/// process has.
bool protected_by_server();

extern const SharedPart kSessionProtectionsPart;
extern const SharedPart kServerProtectionPart;

} // namespace lockguard::pg
