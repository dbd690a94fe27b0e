// Why a session is not to be ended, whoever would end it: what pg_lockguard.protected and
// pg_lockguard.exempt_* say of it, and whether its transaction shares a snapshot. For the worker,
// and for statements with pg_lockguard.ddl_on_timeout = terminate.
#pragma once

#include "core/blocker_policy.h"

#include "boundary/compat.h"
#include "sessions/backend_status.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

/// pg_lockguard.exempt_roles and exempt_databases, read once for several sessions.
struct ExemptionLists {
    const List* roles;     // OIDs
    const List* databases; // names
    bool name_missing;     // one that does not exist has been reported: it protects nobody
};

/// Can what find_exemptions() needs be read now, without waiting for a lock?
inline bool exemptions_can_be_read(NameLookup lookup) {
    return lookup.globals && lookup.memberships;
}

/// Reads the lists. Needs a transaction, with the catalogs open (exemptions_can_be_read()).
/// Everything is in the current memory context. May ereport.
///
/// \param report_missing  whether names that do not exist are each a WARNING
ExemptionLists read_exemption_lists(bool report_missing);

/// Sets what the settings and the session's transaction say: protected_by_setting, exempt_* and
/// shares_snapshot. Where the session was idle before, and is found not to have been active since,
/// the answer is firm: what a session says of itself it says while it is active. Needs what
/// read_exemption_lists() needs; may ereport. Not under any LWLock: see shares_snapshot().
///
/// \param session  the one that `status` is about, with its transaction
/// \param role     the authenticated one: SET ROLE neither protects nor exposes
void find_exemptions(const SessionId& session, Oid role, const BackendStatus& status,
                     const ExemptionLists& lists, NameLookup lookup, core::SessionFacts* facts);

/// The same in words, for a statement that would end the session: null where nothing exempts it (or
/// it has ended), else what follows "PID 4711 is spared: ". Where that can't be found out, the
/// words say so: in doubt nobody is ended. Says nothing of superusers. In the current memory
/// context or static.
const char* why_exempt(const SessionId& session, const ExemptionLists& lists, NameLookup lookup);

} // namespace lockguard::pg
