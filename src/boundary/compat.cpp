#include "boundary/compat.h"

extern "C" {
#include "executor/executor.h"
}

namespace lockguard::pg::compat {

namespace {
void (*request_ours)();
shmem_request_hook_type previous_shmem_request_hook;

void request_all() {
    if (previous_shmem_request_hook != nullptr)
        previous_shmem_request_hook();
    request_ours();
}
} // namespace

void on_shmem_request(void (*request)()) {
    request_ours = request;
    previous_shmem_request_hook = shmem_request_hook;
    shmem_request_hook = request_all;
}

bool may_maintain(Oid relation, Oid role) {
#if PG_VERSION_NUM >= 170000
    return pg_class_aclcheck(relation, role, ACL_MAINTAIN) == ACLCHECK_OK;
#else
    return owns_relation(relation, role);
#endif
}

AclMode privileges_to_lock(LOCKMODE mode) {
    AclMode strong = ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;
#if PG_VERSION_NUM >= 170000
    strong |= ACL_MAINTAIN;
#endif
#if PG_VERSION_NUM >= 160000
    // Who may have a mode may have the weaker ones.
    return strong | (mode <= RowExclusiveLock ? ACL_INSERT : ACL_NO_RIGHTS) |
           (mode == AccessShareLock ? ACL_SELECT : ACL_NO_RIGHTS);
#else
    if (mode == AccessShareLock)
        return ACL_SELECT;
    return mode == RowExclusiveLock ? strong | ACL_INSERT : strong;
#endif
}

void check_query_privileges(const PlannedStmt* query) {
#if PG_VERSION_NUM >= 160000
    ExecCheckPermissions(query->rtable, query->permInfos, true);
#else
    ExecCheckRTPerms(query->rtable, true);
#endif
}

} // namespace lockguard::pg::compat
