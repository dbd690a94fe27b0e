#include "boundary/compat.h"

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

void init_materialized_descriptor(FunctionCallInfo fcinfo) {
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
    if (result == nullptr || !IsA(result, ReturnSetInfo))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("set-valued function called in context that cannot accept a set")));
    if (!(result->allowedModes & SFRM_Materialize))
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("materialize mode required, but it is not allowed in this context")));

    MemoryContext caller = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
    TupleDesc descriptor;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    MemoryContextSwitchTo(caller);
    result->returnMode = SFRM_Materialize;
    result->setDesc = descriptor;
}

#if PG_VERSION_NUM < 180000

namespace {
/// Where the rows go. It belongs to the place that the function is called from, which may call it
/// many times in one query: each store leaves it empty.
MemoryContext store_context(FunctionCallInfo fcinfo, Size expected_bytes) {
    FmgrInfo* function = fcinfo->flinfo;
    if (function->fn_extra == nullptr) {
        // Beyond work_mem they go to disk. The store itself takes 16 kB.
        Size bytes = Min(expected_bytes, static_cast<Size>(work_mem) * 1024);
        Size block = MAXALIGN(Min(bytes, MaxAllocSize / 2) + 24 * 1024);
        function->fn_extra = GenerationContextCreate(function->fn_mcxt, "pg_lockguard result", 0,
                                                     block, Max(block, 1024 * 1024));
    }
    return static_cast<MemoryContext>(function->fn_extra);
}
} // namespace

#endif

void open_result_store(FunctionCallInfo fcinfo, [[maybe_unused]] Size expected_bytes) {
    auto* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
#if PG_VERSION_NUM >= 180000
    MemoryContext context = result->econtext->ecxt_per_query_memory;
#else
    MemoryContext context = store_context(fcinfo, expected_bytes);
#endif
    MemoryContext caller = MemoryContextSwitchTo(context);
    result->setResult = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
                                              false, work_mem);
    MemoryContextSwitchTo(caller);
}

} // namespace lockguard::pg::compat
