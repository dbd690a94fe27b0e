#include "shmem/worker_state.h"

#include "boundary/settings.h"

extern "C" {
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

/// The procno of the worker, plus 1; 0 while there is none. No lock: one atomic word. Null where
/// not preloaded.
pg_atomic_uint32* worker_word;

/// Real ones, rehearsed ones.
WorkerFuses* fuses[2];

Size word_size() {
    return sizeof(*worker_word);
}

void attach_word(void* memory, bool is_new) {
    worker_word = static_cast<pg_atomic_uint32*>(memory);
    if (is_new)
        pg_atomic_init_u32(worker_word, 0);
}

/// Of either of the two.
Size fuses_size() {
    return MAXALIGN(add_size(offsetof(WorkerFuses, requests),
                             mul_size(sizeof(core::RequestFuse), MaxBackends)));
}

Size all_fuses_size() {
    return mul_size(fuses_size(), lengthof(fuses));
}

void attach_fuses(void* memory, bool is_new) {
    if (is_new)
        memset(memory, 0, all_fuses_size());
    for (std::size_t i = 0; i < lengthof(fuses); i++)
        fuses[i] = reinterpret_cast<WorkerFuses*>(static_cast<char*>(memory) + i * fuses_size());
}

void withdraw_worker(int /*code*/, Datum /*argument*/) {
    pg_atomic_write_u32(worker_word, 0);
}

} // namespace

constinit const SharedPart kWorkerProcnoPart = {"pg_lockguard worker", word_size, attach_word};
constinit const SharedPart kWorkerFusesPart = {"pg_lockguard fuses", all_fuses_size, attach_fuses};

void announce_worker() {
    Assert(worker_word != nullptr); // the worker is registered only where we are preloaded
    on_shmem_exit(withdraw_worker, Datum{0});
    pg_atomic_write_u32(worker_word, compat::procno_of(MyProc) + 1);
}

void wake_worker() {
    if (worker_word == nullptr || !settings.looks_for_blockers())
        return;
    uint32 worker = pg_atomic_read_u32(worker_word);
    // Where it has just exited, somebody else's latch is set for nothing, which does no harm.
    if (worker != 0)
        SetLatch(&GetPGProcByNumber(worker - 1)->procLatch);
}

WorkerFuses* worker_fuses(bool rehearsal) {
    return fuses[rehearsal ? 1 : 0];
}

} // namespace lockguard::pg
