// Our shared memory. It exists only where the library is in shared_preload_libraries. It has many
// owners: each is a file of this folder, which says what its part is, and which lock guards it.
#pragma once

#include <span>

#include "boundary/compat.h"

namespace lockguard::pg {

/// What one owner keeps in shared memory.
struct SharedPart {
    const char* name; // as in pg_shmem_allocations

    /// How large it is. Asked once, in the postmaster; MaxBackends is known then.
    Size (*size)();

    /// Keeps where the part is, for this process and those that it forks, after filling it where it
    /// is new. Called under AddinShmemInitLock.
    void (*attach)(void* memory, bool is_new);

    const char* lock = nullptr; // of an LWLock of its own: GetNamedLWLockTranche(lock)->lock
};

/// Asks for the shared memory and arranges for its creation. Called once, from _PG_init, while
/// shared_preload_libraries are loaded.
///
/// \param parts  in static memory, as what they point to
void set_up_shared_state(std::span<const SharedPart* const> parts);

/// Was the library loaded early enough to have its shared memory?
bool shared_state_available();

/// Raises 55000 (object_not_in_prerequisite_state), with a HINT that names
/// shared_preload_libraries, where the shared memory does not exist.
void require_shared_state();

/// One element for each PGPROC that can belong to a client backend or a worker. PGPROCs of
/// auxiliary processes and prepared transactions stand behind the first MaxBackends: neither can be
/// ended, and neither runs DDL.
template <class Slot>
struct SlotsByProc {
    Slot* slots; // MaxBackends of them; null where not preloaded

    static Size size() { return mul_size(sizeof(Slot), MaxBackends); }

    /// That of a PGPROC; null where there is none.
    Slot* of(int procno) const {
        return slots == nullptr || procno < 0 || procno >= MaxBackends ? nullptr : &slots[procno];
    }

    /// That of this process; null where it has none.
    Slot* own() const { return MyProc == nullptr ? nullptr : of(compat::procno_of(MyProc)); }
};

} // namespace lockguard::pg
