#include "sessions/exemptions.h"

#include "boundary/settings.h"
#include "sessions/role_membership.h"
#include "sessions/shared_snapshots.h"
#include "shmem/protections.h"

extern "C" {
#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_database.h"
#include "mb/pg_wchar.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/varlena.h"
}

namespace lockguard::pg {

namespace {

/// A name that is too long is cut. A process without a database does not know of any encoding, and
/// may do so within a character, where a database in UTF-8 has cut before it: then the name as that
/// has it, else null.
const char* cut_before_character(const char* name) {
    const auto length = static_cast<int>(strlen(name));
    if (length < NAMEDATALEN - 1 || GetDatabaseEncoding() != PG_SQL_ASCII)
        return nullptr;
    const int valid = pg_encoding_verifymbstr(PG_UTF8, name, length);
    if (valid == length || valid + pg_encoding_mblen(PG_UTF8, name + valid) <= length)
        return nullptr;
    return pnstrdup(name, static_cast<Size>(valid));
}

/// The elements of a list setting, whose check hook has accepted it.
List* names_in(const char* setting) {
    List* names = NIL;
    SplitIdentifierString(pstrdup(setting), ',', &names);
    return names;
}

/// Is pg_lockguard.protected on in the session? What it does not say itself is as in the
/// configuration files, which this process reads as well.
bool is_protected(int procno, TimestampTz session_start) {
    switch (protection_of(procno, session_start)) {
    case Protection::on:
        return true;
    case Protection::off:
        return false;
    case Protection::as_server:
        break;
    }
    return protected_by_server();
}

bool is_member_of_any(Oid member, const List* roles) {
    for (int i = 0; i < list_length(roles); i++) {
        if (is_member_of(member, list_nth_oid(roles, i)))
            return true;
    }
    return false;
}

bool is_named(const char* name, const List* names) {
    for (int i = 0; name != nullptr && i < list_length(names); i++) {
        if (strcmp(static_cast<const char*>(list_nth(names, i)), name) == 0)
            return true;
    }
    return false;
}

/// Not get_database_oid(): that reads an index, which a process without a database may not have at
/// hand, and can't look up.
bool database_exists(const char* name) {
    Relation databases = table_open(DatabaseRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_database_datname, BTEqualStrategyNumber, F_NAMEEQ,
                CStringGetDatum(name));
    SysScanDesc scan = systable_beginscan(databases, InvalidOid, false, nullptr, 1, &key);
    const bool exists = HeapTupleIsValid(systable_getnext(scan));
    systable_endscan(scan);
    table_close(databases, AccessShareLock);
    return exists;
}

/// Returns true.
bool report_missing_name(const char* kind, const char* name, const char* setting) {
    ereport(WARNING, (errcode(ERRCODE_UNDEFINED_OBJECT),
                      errmsg("%s \"%s\" of pg_lockguard.%s does not exist", kind, name, setting),
                      errhint("Correct the setting and reload: it protects nobody.")));
    return true;
}

} // namespace

ExemptionLists read_exemption_lists(bool report_missing) {
    Assert(IsTransactionState());
    ExemptionLists lists = {};
    List* databases = names_in(settings.exempt_databases);
    List* exempt = NIL;
    for (int i = 0; i < list_length(databases); i++) {
        const auto* name = static_cast<const char*>(list_nth(databases, i));
        const char* shorter = cut_before_character(name);
        exempt = lappend(exempt, const_cast<char*>(name));
        if (shorter != nullptr)
            exempt = lappend(exempt, const_cast<char*>(shorter));
        if (report_missing && !database_exists(name) &&
            (shorter == nullptr || !database_exists(shorter)))
            lists.name_missing = report_missing_name("database", name, "exempt_databases");
    }
    lists.databases = exempt;
    List* names = names_in(settings.exempt_roles);
    List* roles = NIL;
    for (int i = 0; i < list_length(names); i++) {
        const auto* name = static_cast<const char*>(list_nth(names, i));
        Oid role = get_role_oid(name, true);
        const char* shorter = cut_before_character(name);
        if (!OidIsValid(role) && shorter != nullptr)
            role = get_role_oid(shorter, true);
        if (OidIsValid(role)) {
            roles = lappend_oid(roles, role);
            continue;
        }
        if (report_missing)
            lists.name_missing = report_missing_name("role", name, "exempt_roles");
    }
    lists.roles = roles;
    return lists;
}

void find_exemptions(const SessionId& session, Oid role, const BackendStatus& status,
                     const ExemptionLists& lists, NameLookup lookup, core::SessionFacts* facts) {
    Assert(exemptions_can_be_read(lookup));
    facts->protected_by_setting = is_protected(session.procno, status.proc_start);
    facts->exempt_role = is_member_of_any(role, lists.roles);
    facts->exempt_database = is_named(database_name(status.database, lookup), lists.databases);
    facts->exempt_application =
        core::matches_any(settings.exempt_application_patterns, status.application_name);
    facts->shares_snapshot = shares_snapshot(session);
}

const char* why_exempt(const SessionId& session, const ExemptionLists& lists, NameLookup lookup) {
    if (!exemptions_can_be_read(lookup))
        return "what pg_lockguard.exempt_roles says can't be looked up without waiting for a lock";
    BackendStatus status;
    const PGPROC* proc = GetPGProcByNumber(session.procno);
    if (!read_backend_status(session, &status))
        return proc->pid == session.pid ? "its status can't be read at the moment" : nullptr;
    core::SessionFacts facts = {};
    facts.client_backend = true;
    facts.idle_in_transaction = true; // what it does is not asked here
    find_exemptions(session, proc->roleId, status, lists, lookup, &facts);
    core::SpareReason reason = core::spare_reason(facts, {}, core::BlockerRemedy::end);
    // Static text with an end.
    return reason == core::SpareReason::none ? nullptr : core::spare_reason_text(reason).data();
}

} // namespace lockguard::pg
