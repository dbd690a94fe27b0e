#include "locks/waiters_behind.h"

#include "core/lock_order.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "locks/kept_waiting_by.h"
#include "locks/lock_snapshot.h"
#include "shmem/wait_board.h"

extern "C" {
#include "storage/lmgr.h"
}

namespace lockguard::pg {

namespace {

// ---- The glance

/// Has this session no lock at all, but that on its own virtual transaction id, for which nobody
/// has waited yet? So it is where a statement waits outside of a transaction block.
bool holds_nothing() {
    // The slots first: what others move from there into the main table is there before.
    if (!compat::has_empty_slots())
        return false;
    for (int i = 0; i < NUM_LOCK_PARTITIONS; i++) {
        if (compat::newest_own_proclock(MyProc, i) != nullptr)
            return false;
    }
    return true;
}

bool counts(const LOCKTAG& tag, Behind who) {
    return who == Behind::anybody || wait_kind_of(tag) == core::WaitKind::data;
}

/// Does any process wait in a queue? Looked at without a lock, in far less than a microsecond for a
/// hundred processes.
bool any_process_waits() {
    for (uint32 i = 0; i < ProcGlobal->allProcCount; i++) {
        if (*const_cast<LOCK* const volatile*>(&GetPGProcByNumber(i)->waitLock) != nullptr)
            return true;
    }
    return false;
}

/// The modes that conflict with any of these.
LOCKMASK conflicts_of(const LOCKTAG& tag, LOCKMASK modes) {
    const LOCKMASK* table = GetLockTagsMethodTable(&tag)->conflictTab;
    LOCKMASK conflicts = 0;
    for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++) {
        if ((modes & LOCKBIT_ON(mode)) != 0)
            conflicts |= table[mode];
    }
    return conflicts;
}

/// Of the main table: whoever waits for a lock that stood in our fast-path slots has moved it
/// there. So other processes add to our lists, under the partition's lock; none takes from them.
bool is_waited_for_in_partition(int partition, Behind who) {
    // A list that is empty now, and gets its first entry in this moment, is seen by the next look.
    if (compat::newest_own_proclock(MyProc, partition) == nullptr)
        return false;
    bool found = false;
    LWLock* partition_lock = LockHashPartitionLockByIndex(partition);
    LWLockAcquire(partition_lock, LW_SHARED);
    for (PROCLOCK* own = compat::newest_own_proclock(MyProc, partition); own != nullptr && !found;
         own = compat::older_own_proclock(MyProc, partition, own)) {
        const LOCK* lock = own->tag.myLock;
        found = lock->waitMask != 0 && counts(lock->tag, who) &&
                (conflicts_of(lock->tag, lock->waitMask) & own->holdMask) != 0;
    }
    LWLockRelease(partition_lock);
    return found;
}

bool is_waited_for_in_queue(Behind who) {
    if (!any_process_waits())
        return false;
    for (int i = 0; i < NUM_LOCK_PARTITIONS; i++) {
        if (is_waited_for_in_partition(i, who))
            return true;
    }
    return false;
}

/// Do we hold a mode that conflicts? By our own table of locks: nobody else is asked.
bool is_in_the_way(const LowPriorityWait& wait) {
    LOCKMASK conflicts = conflicts_of(wait.tag, LOCKBIT_ON(wait.mode));
    for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++) {
        if ((conflicts & LOCKBIT_ON(mode)) != 0 && compat::holds_lock(wait.tag, mode))
            return true;
    }
    return false;
}

/// Outside of the queues.
bool is_waited_for_at_low_priority(Behind who) {
    LowPriorityWait wait;
    LowPriorityWait asked = {}; // the latest: many wait for the same
    for (int i = 0; i < MaxBackends; i++) {
        if (!read_low_priority_wait(i, &wait) || !wait.lock_known || wait.pid == MyProcPid ||
            !counts(wait.tag, who))
            continue;
        if (asked.mode == wait.mode && memcmp(&asked.tag, &wait.tag, sizeof(LOCKTAG)) == 0)
            continue;
        if (is_in_the_way(wait))
            return true;
        asked = wait;
    }
    return false;
}

// ---- The look

/// The lock table with this session's place in it.
struct Picture {
    LockSnapshot snapshot;
    core::SessionIndex self;
    TimestampTz taken_at;
};

/// Returns false where this session is not in the picture: then nobody waits for it.
bool take_picture(Picture* picture) {
    bool anybody = take_lock_snapshot(&picture->snapshot);
    picture->taken_at = GetCurrentTimestamp();
    if (!anybody)
        return false;
    const SnapshotSession* sessions = picture->snapshot.sessions;
    const SnapshotSession* end = sessions + picture->snapshot.table.sessions.size();
    const SnapshotSession* own = std::find_if(sessions, end, [](const SnapshotSession& session) {
        return session.id.procno == compat::procno_of(MyProc);
    });
    picture->self = static_cast<core::SessionIndex>(own - sessions);
    return own != end;
}

std::span<const core::Chain> chains_to_us(const Picture& picture, core::ChainRule rule) {
    return call_core(CurrentMemoryContext, [&picture, rule](std::pmr::memory_resource& memory) {
        return core::find_chains(picture.snapshot.table, picture.self, rule, memory);
    });
}

// ---- Rings

/// A wait for a safe snapshot is one for no lock.
const char* awaited_text(const SnapshotWait& wait) {
    if (wait.safe_snapshot)
        return "a safe snapshot";
    StringInfoData lock;
    initStringInfo(&lock);
    DescribeLockTag(&lock, &wait.tag);
    return psprintf("%s on %s", GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode),
                    lock.data);
}

core::Ring ring_through_us(const Picture& picture) {
    std::span<const core::Chain> chains = chains_to_us(picture, core::ChainRule::any_wait);
    return call_core(CurrentMemoryContext, [&](std::pmr::memory_resource& memory) {
        return core::find_ring(chains, picture.self, memory);
    });
}

bool is_closed_by_us(const Picture& picture, const core::Ring& ring) {
    return !ring.members.empty() && ring.closer == picture.self;
}

/// Is each member in the same wait, in the same transaction, as in the picture before? Then it has
/// not let go of any lock in between.
bool is_same_ring(const Picture& left_picture, const core::Ring& left, const Picture& right_picture,
                  const core::Ring& right) {
    auto is_same_member = [&](const core::RingMember& a, const core::RingMember& b) {
        const SnapshotSession& session_a = left_picture.snapshot.sessions[a.session];
        const SnapshotSession& session_b = right_picture.snapshot.sessions[b.session];
        const SnapshotWait& wait_a = left_picture.snapshot.waits[a.wait];
        const SnapshotWait& wait_b = right_picture.snapshot.waits[b.wait];
        return session_a.id == session_b.id && wait_a.wait_start == wait_b.wait_start &&
               wait_a.mode == wait_b.mode && memcmp(&wait_a.tag, &wait_b.tag, sizeof(LOCKTAG)) == 0;
    };
    return std::equal(left.members.begin(), left.members.end(), right.members.begin(),
                      right.members.end(), is_same_member);
}

/// Do all members but us hold what they hold until their wait ends?
bool is_steady(const Picture& picture, const core::Ring& ring) {
    return std::all_of(ring.members.begin() + 1, ring.members.end(),
                       [&picture](const core::RingMember& member) {
                           return picture.snapshot.waits[member.wait].holds_steady;
                       });
}

/// Is it there in two pictures in a row? A picture is no single moment: who holds what is waited
/// for at low priority is asked after the copy. `picture` and `ring` are those of the latest look.
bool becomes_certain(Picture* picture, core::Ring* ring) {
    constexpr int kMostLooks = 5;
    constexpr long kPause = 1000; // µs
    for (int look = 0; look < kMostLooks; look++) {
        if (!is_steady(*picture, *ring))
            pg_usleep(kPause);
        Picture before = *picture;
        core::Ring ring_before = *ring;
        if (!take_picture(picture))
            return false;
        *ring = ring_through_us(*picture);
        if (!is_closed_by_us(*picture, *ring))
            return false;
        if (is_steady(*picture, *ring) && is_same_ring(before, ring_before, *picture, *ring))
            return true;
    }
    return false;
}

void describe_ring(const Picture& picture, const core::Ring& ring, MemoryContext memory,
                   WaitersBehind* behind) {
    StringInfoData text;
    initStringInfo(&text);
    auto pid_of = [&picture](const core::RingMember& member) {
        return picture.snapshot.sessions[member.session].id.pid;
    };
    for (std::size_t i = 0; i < ring.members.size(); i++) {
        const core::RingMember& next = ring.members[(i + 1) % ring.members.size()];
        appendStringInfo(&text, "%sProcess %d waits for %s; blocked by process %d.",
                         i == 0 ? "" : "\n", pid_of(ring.members[i]),
                         awaited_text(picture.snapshot.waits[ring.members[i].wait]), pid_of(next));
    }
    behind->ring_detail = MemoryContextStrdup(memory, text.data);
    for (const core::RingMember& member : ring.members)
        appendStringInfo(&text, "\nProcess %d: %s", pid_of(member),
                         pgstat_get_backend_current_activity(pid_of(member), false));
    behind->ring_log_detail = MemoryContextStrdup(memory, text.data);
}

SessionId identity_of(const Picture& picture, core::SessionIndex session) {
    return picture.snapshot.sessions[session].id;
}

/// \param memory  for the texts
void look_for_ring(Picture* picture, MemoryContext memory, WaitersBehind* behind) {
    core::Ring ring = ring_through_us(*picture);
    if (ring.members.empty())
        return;
    Assert(ring.members.size() > 1 && ring.members[0].session == picture->self);
    behind->ring = RingState::closed_by_other;
    if (is_closed_by_us(*picture, ring)) {
        behind->ring = RingState::none;
        if (!becomes_certain(picture, &ring))
            return;
        behind->ring = RingState::closed_by_us;
        describe_ring(*picture, ring, memory, behind);
    }
    behind->ring_holder = identity_of(*picture, ring.members[1].session);
    behind->ring_closer = identity_of(*picture, ring.closer);
    behind->ring_closed = ring.closed;
    for (const core::RingMember& member : ring.members) {
        if (member.session == ring.closer)
            behind->closer_looks = picture->snapshot.waits[member.wait].low_priority;
    }
}

} // namespace

BehindRecord* new_behind_record() {
    auto* record = new_object<BehindRecord>();
    core::start_record(*record, GetCurrentTransactionStartTimestamp());
    return record;
}

bool anybody_waits_for_us(Behind who) {
    if (holds_nothing())
        return false;
    return is_waited_for_in_queue(who) || is_waited_for_at_low_priority(who);
}

WaitersBehind look_behind(BehindRecord* record) {
    WaitersBehind behind = {};
    if (!anybody_waits_for_us(Behind::anybody)) {
        core::note_look(*record, {}, GetCurrentTimestamp());
        return behind;
    }
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard look behind",
                                                  ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    Picture picture;
    if (take_picture(&picture)) {
        KeptWaitingBy kept =
            find_kept_waiting(picture.snapshot, picture.self, picture.taken_at, record);
        behind.sessions = kept.sessions;
        behind.longest = kept.longest;
        look_for_ring(&picture, caller, &behind);
    } else {
        core::note_look(*record, {}, picture.taken_at);
    }
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return behind;
}

void raise_deadlock(const WaitersBehind& behind) {
    Assert(behind.ring == RingState::closed_by_us && behind.ring_detail != nullptr);
    pgstat_report_deadlock();
    ereport(ERROR, (errcode(ERRCODE_T_R_DEADLOCK_DETECTED), errmsg("deadlock detected"),
                    errdetail_internal("%s", behind.ring_detail),
                    errdetail_log("%s", behind.ring_log_detail),
                    errhint("See server log for query details.")));
    pg_unreachable();
}

} // namespace lockguard::pg
