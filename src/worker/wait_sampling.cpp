#include "worker/wait_sampling.h"

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "sessions/backend_status.h"
#include "shmem/counters.h"
#include "shmem/wait_table.h"

namespace lockguard::pg {

namespace {

/// What of a lock the waits for it are added up by.
void set_lock(const SnapshotWait& wait, core::WaitKey* key) {
    if (wait.safe_snapshot) {
        key->lock_type = core::kSafeSnapshotType;
        return;
    }
    key->lock_type = wait.tag.locktag_type;
    key->mode = wait.mode;
    switch (static_cast<LockTagType>(wait.tag.locktag_type)) {
    case LOCKTAG_RELATION:
    case LOCKTAG_RELATION_EXTEND:
    case LOCKTAG_PAGE:
    case LOCKTAG_TUPLE:
        key->relation_database = wait.tag.locktag_field1;
        key->relation = wait.tag.locktag_field2;
        break;
    default:
        break;
    }
}

/// Whom it waits behind in the lock tree.
void set_blocker(const SnapshotSession& blocker, const BackendStatus* status, core::WaitKey* key) {
    key->blocker_role = status != nullptr ? status->role : blocker.role;
    if (status != nullptr)
        strlcpy(key->blocker_application.data(), status->application_name,
                key->blocker_application.size());
}

} // namespace

std::span<const core::OpenWait> sample_waits(std::span<const core::OpenWait> before,
                                             TimestampTz looked_at, const IncidentScene& scene,
                                             core::Microseconds next_gap, MemoryContext keep) {
    const LockSnapshot& snapshot = scene.waits.snapshot;
    std::size_t session_count = scene.waits.graph.sessions.size();
    auto** statuses = new_zeroed_array<BackendStatus*>(session_count); // of blockers, read once
    auto* seen = new_array<core::SampledWait>(scene.rows.size());
    std::size_t seen_count = 0;
    for (const core::ForestRow& row : scene.rows) {
        const SnapshotSession& session = snapshot.sessions[row.session];
        // Of a ring the one at the top waits as well, for another one of it.
        auto blockers = scene.waits.graph.blockers_of(row.session);
        if (session.first_wait < 0 || blockers.empty())
            continue;
        const core::Edge& edge = row.parent != nullptr ? *row.parent : blockers.front();
        const SnapshotWait& wait = snapshot.waits[session.first_wait];
        const SnapshotSession& blocker = snapshot.sessions[edge.blocker];
        BackendStatus*& status = statuses[edge.blocker];
        if (status == nullptr && blocker.id.pid != 0) {
            auto* read = new_object<BackendStatus>();
            if (read_backend_status(blocker.id, read))
                status = read;
        }
        core::SampledWait& sampled = seen[seen_count++];
        memset(static_cast<void*>(&sampled), 0, sizeof(sampled));
        sampled.procno = wait.procno;
        sampled.since = wait.safe_snapshot ? 0 : wait.wait_start;
        sampled.announced = wait.low_priority;
        sampled.key.database = session.database;
        set_lock(wait, &sampled.key);
        set_blocker(blocker, status, &sampled.key);
    }
    core::WaitAccount account = call_core(keep, [&](std::pmr::memory_resource& memory) {
        return core::account_waits(before, looked_at, {seen, seen_count}, scene.at, next_gap,
                                   memory);
    });
    int evicted = add_waits(account.additions, scene.at);
    if (evicted > 0)
        count(Counter::waits_evicted, static_cast<uint64>(evicted));
    return account.open;
}

} // namespace lockguard::pg
