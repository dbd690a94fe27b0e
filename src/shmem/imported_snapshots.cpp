#include "shmem/imported_snapshots.h"

namespace lockguard::pg {

namespace {

/// The latest transaction of a backend that has imported a snapshot: its pid and, in the lower
/// half, the transaction's lxid; 0 where there was none. In one word, so that it is read whole.
/// Written by the backend alone, and not cleared: another transaction has another lxid.
SlotsByProc<pg_atomic_uint64> imports;

void attach(void* memory, bool is_new) {
    imports.slots = static_cast<pg_atomic_uint64*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++)
        pg_atomic_init_u64(&imports.slots[i], 0);
}

uint64 word_of(int pid, LocalTransactionId lxid) {
    return (static_cast<uint64>(static_cast<uint32>(pid)) << 32) | lxid;
}

} // namespace

constinit const SharedPart kImportedSnapshotsPart = {"pg_lockguard imported snapshots",
                                                     SlotsByProc<pg_atomic_uint64>::size, attach};

void publish_imported_snapshot() {
    pg_atomic_uint64* import = imports.own();
    if (import != nullptr)
        pg_atomic_write_u64(import, word_of(MyProcPid, compat::lxid_of(MyProc)));
}

bool has_imported_snapshot(int procno, int pid, LocalTransactionId lxid) {
    pg_atomic_uint64* import = imports.of(procno);
    if (import == nullptr || lxid == InvalidLocalTransactionId)
        return false;
    return pg_atomic_read_u64(import) == word_of(pid, lxid);
}

} // namespace lockguard::pg
