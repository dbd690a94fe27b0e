#include "guard/low_priority_wait.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "locks/lock_holders.h"
#include "locks/wait_sampler.h"
#include "sessions/backend_status.h"

extern "C" {
#include "storage/latch.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
}

namespace lockguard::pg {

namespace {

/// Of its transaction; kUnknownTime where that is unknown.
core::Microseconds age_of(const AwaitedHolder& holder, TimestampTz now) {
    if (holder.xact_start == 0)
        return core::kUnknownTime;
    return std::max<core::Microseconds>(core::age(holder.xact_start, now), 0);
}

/// What is known of one holder. Returns false where its transaction has ended.
bool describe(VirtualTransactionId vxid, TimestampTz now, AwaitedHolder* holder,
              core::HoldersSeen* present) {
    *holder = {vxid, -1, 0, B_INVALID, false, 0};
    core::Microseconds xact_age = core::kUnknownTime;

    SessionId session;
    if (find_session(vxid, &session)) {
        holder->procno = session.procno;
        holder->pid = session.pid;
        BackendStateOnly status;
        if (read_backend_state(session, &status)) {
            holder->type = status.type;
            holder->xact_start = status.xact_start;
            // A session that is in none, as it says, and still holds a lock has just ended it.
            if (status.xact_start == 0 && status.state != STATE_DISABLED &&
                status.state != STATE_UNDEFINED)
                holder->xact_start = now;
            xact_age = age_of(*holder, now);
        }
        if (holder->type == B_AUTOVAC_WORKER) {
            holder->against_wraparound = is_wraparound_vacuum(session);
            present->autovacuum |= !holder->against_wraparound;
        }
    } else if (VirtualXactLock(vxid, false)) {
        return false;
    }

    present->holders++;
    present->next_age = std::max(present->next_age, std::min(present->oldest_age, xact_age));
    present->oldest_age = std::max(present->oldest_age, xact_age);
    return true;
}

/// The transaction that has its own virtual transaction id locked.
VirtualTransactionId transaction_of(const LOCKTAG& tag) {
    return compat::make_vxid(static_cast<int>(tag.locktag_field1), tag.locktag_field2);
}

/// Who answers for a process that holds a lock: the leader, for a parallel query's worker, where it
/// is still there. Read without a lock, as in describe().
VirtualTransactionId leading_transaction(VirtualTransactionId vxid) {
    SessionId session;
    if (!find_session(vxid, &session))
        return vxid;
    const SessionId leader = leading_session(session);
    if (leader.procno == session.procno)
        return vxid;
    VirtualTransactionId leading;
    GET_VXID_FROM_PGPROC(leading, *GetPGProcByNumber(leader.procno));
    return VirtualTransactionIdIsValid(leading) ? leading : vxid;
}

/// Those of whom nothing is known, prepared ones among them, before all.
bool is_older(const AwaitedHolder& left, const AwaitedHolder& right) {
    return left.xact_start < right.xact_start;
}

} // namespace

bool is_among(std::span<const AwaitedHolder> holders, VirtualTransactionId vxid) {
    return std::ranges::any_of(holders, [vxid](const AwaitedHolder& holder) {
        return VirtualTransactionIdEquals(holder.vxid, vxid);
    });
}

void run_own_wait(core::Microseconds limit, DeadlockCheck check, void (*wait)(const void*),
                  const void* argument) {
    // No code but the lock manager's runs meanwhile, so nobody sees the settings that way.
    const int lock_timeout = LockTimeout;
    const int deadlock_timeout = DeadlockTimeout;
    const bool log_waits = log_lock_waits;
    run_guarded(
        [=] {
            start_wait_limit(limit, true);
            LockTimeout = 0;
            log_lock_waits = false;
            if (check == DeadlockCheck::no)
                DeadlockTimeout = INT_MAX;
            else if (check == DeadlockCheck::at_once)
                DeadlockTimeout = 1;
            wait(argument);
        },
        [=] {
            LockTimeout = lock_timeout;
            DeadlockTimeout = deadlock_timeout;
            log_lock_waits = log_waits;
            stop_wait_limit();
        });
}

core::Microseconds age(const AwaitedHolder& holder) {
    return age_of(holder, GetCurrentTimestamp());
}

bool has_holders(const LOCKTAG& tag, LOCKMODE mode) {
    if (tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION)
        return !VirtualXactLock(transaction_of(tag), false);
    if (seems_free(tag, mode))
        return false;
    int count;
    VirtualTransactionId* vxids = GetLockConflicts(&tag, mode, &count);
    pfree(vxids); // for a big server and many partitions that adds up
    return count > 0;
}

bool has_no_holders_besides(const LOCKTAG& tag, LOCKMODE mode, const LOCKTAG& other,
                            LOCKMODE other_mode) {
    int other_count;
    int count;
    VirtualTransactionId* others = GetLockConflicts(&other, other_mode, &other_count);
    VirtualTransactionId* vxids = GetLockConflicts(&tag, mode, &count);
    bool all_are_others = std::all_of(vxids, vxids + count, [=](VirtualTransactionId vxid) {
        return std::any_of(others, others + other_count, [vxid](VirtualTransactionId candidate) {
            return VirtualTransactionIdEquals(candidate, vxid);
        });
    });
    pfree(vxids);
    pfree(others);
    return all_are_others;
}

AwaitedHolders look_at_holders(const LOCKTAG& tag, LOCKMODE mode) {
    VirtualTransactionId own_lock;
    int count = 1;
    const VirtualTransactionId* vxids = &own_lock;
    if (tag.locktag_type == LOCKTAG_VIRTUALTRANSACTION)
        own_lock = transaction_of(tag); // which the lock manager knows once somebody has waited
    else
        vxids = GetLockConflicts(&tag, mode, &count);
    auto* holders = new_array<AwaitedHolder>(static_cast<std::size_t>(count));
    AwaitedHolders result = {};
    TimestampTz now = GetCurrentTimestamp();
    std::size_t found = 0;
    for (int i = 0; i < count; i++) {
        VirtualTransactionId vxid = leading_transaction(vxids[i]);
        if (!VirtualTransactionIdEquals(vxid, vxids[i]) && is_among({holders, found}, vxid))
            continue; // another worker of the same query
        if (!describe(vxid, now, &holders[found], &result.present))
            continue;
        result.against_wraparound |= holders[found].against_wraparound;
        found++;
    }
    std::sort(holders, holders + found, is_older);
    result.holders = {holders, found};
    return result;
}

bool sleep_until_end(VirtualTransactionId vxid, core::Microseconds timeout, DeadlockCheck check) {
    auto sleep = [&] {
        run_own_wait(
            timeout, check,
            [](const void* argument) {
                VirtualXactLock(*static_cast<const VirtualTransactionId*>(argument), true);
            },
            &vxid);
        return true;
    };
    const InterruptMarks marks = mark_interrupts();
    CHECK_FOR_INTERRUPTS();
    SubtransactionEnd end = run_in_subtransaction(sleep, is_wait_limit);
    if (!end.kept)
        raise_swallowed_interrupts(marks);
    return end.kept;
}

void sleep_a_little(int timeout) {
    static uint32 wait_event;
    if (wait_event == 0)
        wait_event = compat::new_wait_event("PgLockguardBackOff");
    WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, wait_event);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
}

void check_client() {
    if (whereToSendOutput != DestRemote || MyProcPort == nullptr || !WaitEventSetCanReportClosed())
        return;
    if (!pq_check_connection()) {
        ClientConnectionLost = true;
        InterruptPending = true;
    }
    // That look resets the latch: what has set it must not wait for the end of the next sleep.
    CHECK_FOR_INTERRUPTS();
}

bool release_portal_snapshot() {
    Portal portal = ActivePortal;
    bool releasable = portal != nullptr && portal->portalSnapshot != nullptr &&
                      portal->holdSnapshot == nullptr && ActiveSnapshotSet() &&
                      portal->portalSnapshot == GetActiveSnapshot();
    if (releasable) {
        PopActiveSnapshot();
        portal->portalSnapshot = nullptr;
    }
    InvalidateCatalogSnapshot();
    return releasable;
}

} // namespace lockguard::pg
