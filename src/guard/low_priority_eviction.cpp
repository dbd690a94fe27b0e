#include "guard/low_priority_eviction.h"

#include "core/words/terminations.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "sessions/exemptions.h"
#include "sessions/object_names.h"
#include "sessions/signals.h"
#include "shmem/counters.h"

extern "C" {
#include "catalog/pg_authid.h"
}

namespace lockguard::pg {

namespace {

/// Why nobody could end it, whatever his rights.
const char* why_impossible(const AwaitedHolder& holder) {
    if (holder.pid == 0)
        return "a prepared transaction has no session";
    return holder.type == B_BACKEND ? nullptr : "it is no session of a client";
}

/// What pg_terminate_backend() would say to the role; null where it would do it.
const char* why_not_permitted(const AwaitedHolder& holder, Oid role) {
    if (superuser_arg(role))
        return nullptr;
    Oid owner = GetPGProcByNumber(holder.procno)->roleId;
    if (!OidIsValid(owner) || superuser_arg(owner))
        return "only a superuser may end a superuser's session";
    if (has_privs_of_role(role, owner) || has_privs_of_role(role, ROLE_PG_SIGNAL_BACKEND))
        return nullptr;
    return "that takes membership in its role or in pg_signal_backend";
}

/// Why one of them may not be ended; null where all may.
const char* why_not(std::span<const AwaitedHolder> holders, Oid role, bool* lacked) {
    const char* reason = nullptr;
    NameLookup lookup = open_name_lookup();
    bool readable = exemptions_can_be_read(lookup);
    ExemptionLists lists = {};
    if (readable)
        lists = read_exemption_lists(false);
    for (const AwaitedHolder& holder : holders) {
        if (holder.type == B_AUTOVAC_WORKER) {
            if (holder.against_wraparound)
                reason = "it prevents transaction id wraparound";
        } else if ((reason = why_impossible(holder)) == nullptr &&
                   (reason = why_not_permitted(holder, role)) != nullptr) {
            *lacked = true;
        } else if (reason == nullptr) {
            reason = readable ? why_exempt(session_of(holder), lists, lookup)
                              : "whether it is exempt can't be looked up now";
        }
        if (reason != nullptr) {
            reason =
                holder.pid == 0 ? reason : psprintf("PID %d is spared: %s", holder.pid, reason);
            break;
        }
    }
    close_name_lookup(lookup);
    return reason;
}

const char* detail_for_victims(const WaitAccount& account, int decided_by) {
    const NeededLock& lock = account.lock();
    core::Eviction eviction = {};
    eviction.pid = MyProcPid;
    eviction.command = GetCommandTagName(account.statement().tag);
    eviction.lock_mode = GetLockmodeName(lock.tag.locktag_lockmethodid, lock.mode);
    eviction.relation =
        lock.tag.locktag_type == LOCKTAG_RELATION ? lock.tag.locktag_field2 : InvalidOid;
    eviction.waited = account.waited();
    eviction.decided_by = decided_by;
    return call_core(CurrentMemoryContext,
                     [&eviction](auto& memory) { return core::eviction_detail(eviction, memory); })
        .data();
}

void end(const AwaitedHolder& victim, const char* detail, const WaitAccount& account) {
    if (victim.type == B_AUTOVAC_WORKER) {
        cancel_transaction(session_of(victim));
        return;
    }
    if (!terminate_transaction(session_of(victim), detail))
        return; // its transaction has ended by itself
    count(Counter::ddl_terminations);
    account.record_termination(victim.pid, detail);
    ereport(LOG, (errmsg("pg_lockguard: terminated PID %d, which held a lock for which PID %d (%s) "
                         "waited",
                         victim.pid, MyProcPid, GetCommandTagName(account.statement().tag))));
}

} // namespace

const char* end_holders(std::span<const NeededLock> locks, const WaitAccount& account, Oid role,
                        int decided_by, bool* lacked) {
    GrowingArray<AwaitedHolder> victims; // each once
    for (const NeededLock& lock : locks) {
        for (const AwaitedHolder& holder : look_at_holders(lock.tag, lock.mode).holders) {
            if (!is_among(victims.span(), holder.vxid))
                victims.add(holder);
        }
    }
    const std::span<const AwaitedHolder> all = victims.span();
    bool right_is_lacking = false;
    const char* reason = why_not(all, role, lacked != nullptr ? lacked : &right_is_lacking);
    if (reason != nullptr)
        return reason;
    const char* detail = detail_for_victims(account, decided_by);
    // All: each is told of in the log, and after a message PostgreSQL looks for interrupts.
    run_uninterrupted([&] {
        for (const AwaitedHolder& victim : all)
            end(victim, detail, account);
    });
    return nullptr;
}

} // namespace lockguard::pg
