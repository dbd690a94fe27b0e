#include "pg/compat.h"

#if PG_VERSION_NUM < 150000
extern "C" {
#include "postmaster/autovacuum.h"
#include "replication/walsender.h"
}
#endif

namespace lockguard::pg::compat {

#if PG_VERSION_NUM >= 150000

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

int max_backends() {
    return MaxBackends;
}

#else

void on_shmem_request(void (*request)()) {
    request();
}

int max_backends() {
    // InitializeMaxBackends() runs after the libraries have been loaded; this is its sum.
    return MaxBackends != 0 ? MaxBackends
                            : MaxConnections + autovacuum_max_workers + 1 + max_worker_processes +
                                  max_wal_senders;
}

#endif

void init_materialized_srf(FunctionCallInfo fcinfo) {
#if PG_VERSION_NUM >= 150000
    InitMaterializedSRF(fcinfo, 0);
#else
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
    result->returnMode = SFRM_Materialize;
    result->setResult = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0,
                                              false, work_mem);
    result->setDesc = descriptor;
    MemoryContextSwitchTo(caller);
#endif
}

} // namespace lockguard::pg::compat
