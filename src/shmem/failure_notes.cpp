#include "shmem/failure_notes.h"

namespace lockguard::pg {

namespace {

struct Note {
    pg_atomic_uint64 who; // pid and, in the lower half, lxid; 0 where there is none
    // When, in microseconds, times 16; 8 where it ends the transaction; a note.
    pg_atomic_uint64 what;
    pg_atomic_uint64 terminated; // the pid of a process that is ending because it was told to
};

SlotsByProc<Note> notes;

void attach(void* memory, bool is_new) {
    notes.slots = static_cast<Note*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++) {
        pg_atomic_init_u64(&notes.slots[i].who, 0);
        pg_atomic_init_u64(&notes.slots[i].what, 0);
        pg_atomic_init_u64(&notes.slots[i].terminated, 0);
    }
}

} // namespace

constinit const SharedPart kFailureNotesPart = {"pg_lockguard failure notes",
                                                SlotsByProc<Note>::size, attach};

void leave_failure_note(core::FailureNote note, bool ends_transaction, TimestampTz at) {
    Note* own = notes.own();
    if (own == nullptr)
        return;
    if (note == core::FailureNote::terminated) {
        pg_atomic_write_u64(&own->terminated, static_cast<uint64>(MyProcPid));
        // What its last transaction has said of itself stays: a standby may cancel that, and then
        // end the session.
        if (compat::lxid_of(MyProc) == InvalidLocalTransactionId)
            return;
    }
    pg_atomic_write_u64(&own->who, 0);
    pg_write_barrier();
    pg_atomic_write_u64(&own->what, (static_cast<uint64>(at) << 4) | (ends_transaction ? 8 : 0) |
                                        static_cast<uint64>(note));
    pg_write_barrier();
    pg_atomic_write_u64(&own->who, (static_cast<uint64>(static_cast<uint32>(MyProcPid)) << 32) |
                                       compat::lxid_of(MyProc));
}

FailureNoteRead read_failure_note(int procno, int pid) {
    FailureNoteRead none = {core::FailureNote::none, false, InvalidLocalTransactionId, 0, false};
    Note* note = notes.of(procno);
    if (note == nullptr)
        return none;
    none.session_is_terminated = pg_atomic_read_u64(&note->terminated) == static_cast<uint64>(pid);
    uint64 who = pg_atomic_read_u64(&note->who);
    pg_read_barrier();
    uint64 what = pg_atomic_read_u64(&note->what);
    pg_read_barrier();
    if (who >> 32 != static_cast<uint64>(pid) || who != pg_atomic_read_u64(&note->who))
        return none;
    return {static_cast<core::FailureNote>(what & 7), (what & 8) != 0,
            static_cast<LocalTransactionId>(who), static_cast<TimestampTz>(what >> 4),
            none.session_is_terminated};
}

} // namespace lockguard::pg
