// Who is a member of whom, for processes that are connected to no database.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// Is `member` the role itself, or a member of it, directly or through others, with or without
/// inheritance? Superusers are members of nothing by that.
///
/// PostgreSQL's own is_member_of_role_nosuper() keeps what it has found out, and in a process
/// without a database nobody tells it when memberships change. This asks the catalog cache, which
/// is told. Needs a transaction in which memberships can be read (NameLookup). May ereport.
bool is_member_of(Oid member, Oid role);

} // namespace lockguard::pg
