#include "shmem/segment.h"

namespace lockguard::pg {

namespace {

std::span<const SharedPart* const> all_parts;
shmem_startup_hook_type previous_shmem_startup_hook;

/// Has this process, or the postmaster before it forked this one, found the parts?
bool attached;

void request() {
    for (const SharedPart* part : all_parts) {
        RequestAddinShmemSpace(part->size());
        if (part->lock != nullptr)
            RequestNamedLWLockTranche(part->lock, 1);
    }
}

/// Creates each part, or finds what an earlier process has created.
void start_up() {
    if (previous_shmem_startup_hook != nullptr)
        previous_shmem_startup_hook();

    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    for (const SharedPart* part : all_parts) {
        bool found;
        void* memory = ShmemInitStruct(part->name, part->size(), &found);
        part->attach(memory, !found);
    }
    LWLockRelease(AddinShmemInitLock);
    attached = true;
}

} // namespace

void set_up_shared_state(std::span<const SharedPart* const> parts) {
    Assert(process_shared_preload_libraries_in_progress);
    all_parts = parts;
    compat::on_shmem_request(request);
    previous_shmem_startup_hook = shmem_startup_hook;
    shmem_startup_hook = start_up;
}

bool shared_state_available() {
    return attached;
}

void require_shared_state() {
    if (likely(shared_state_available()))
        return;
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("pg_lockguard has no shared memory"),
             errdetail("The library was not loaded at server start."),
             errhint("Add pg_lockguard to shared_preload_libraries and restart the server.")));
}

} // namespace lockguard::pg
