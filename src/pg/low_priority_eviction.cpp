#include "pg/low_priority_eviction.h"

#include <algorithm>

#include "pg/bridge.h"
#include "pg/statistics.h"
#include "pg/termination.h"

extern "C" {
#include "catalog/pg_authid.h"
}

namespace lockguard::pg {

namespace {

/// Who is to be ended, each once.
struct Victims {
    AwaitedHolder* found;
    std::size_t count;
    std::size_t room;
};

bool is_same(VirtualTransactionId left, VirtualTransactionId right) {
    return VirtualTransactionIdEquals(left, right);
}

void add(Victims* victims, const AwaitedHolder& holder) {
    if (std::any_of(
            victims->found, victims->found + victims->count,
            [&holder](const AwaitedHolder& other) { return is_same(other.vxid, holder.vxid); }))
        return;
    if (victims->count == victims->room) {
        victims->room *= 2;
        victims->found = static_cast<AwaitedHolder*>(
            repalloc(victims->found, sizeof(AwaitedHolder) * victims->room));
    }
    victims->found[victims->count++] = holder;
}

bool may_end(const AwaitedHolder& holder) {
    if (holder.type == B_AUTOVAC_WORKER)
        return !holder.against_wraparound;
    if (holder.type != B_BACKEND)
        return false;
    Oid role = GetPGProcByNumber(holder.procno)->roleId;
    if (superuser())
        return true;
    if (!OidIsValid(role) || superuser_arg(role))
        return false;
    return has_privs_of_role(GetUserId(), role) ||
           has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND);
}

const char* detail_for_victims(const WaitAccount& account) {
    const NeededLock& lock = account.lock();
    core::Eviction eviction = {};
    eviction.pid = MyProcPid;
    eviction.command = GetCommandTagName(account.statement().tag);
    eviction.lock_mode = GetLockmodeName(lock.tag.locktag_lockmethodid, lock.mode);
    eviction.relation =
        lock.tag.locktag_type == LOCKTAG_RELATION ? lock.tag.locktag_field2 : InvalidOid;
    eviction.waited = account.waited();
    return call_core(CurrentMemoryContext,
                     [&eviction](auto& memory) { return core::eviction_detail(eviction, memory); })
        .data();
}

void end(const AwaitedHolder& victim, const char* detail, const WaitAccount& account) {
    if (victim.type == B_AUTOVAC_WORKER) {
        cancel_transaction(victim.vxid);
        return;
    }
    if (!terminate_transaction(victim.vxid, detail))
        return; // its transaction has ended by itself
    count(Counter::ddl_terminations);
    account.record_termination(victim.pid, detail);
    ereport(LOG, (errmsg("pg_lockguard: terminated PID %d, which held a lock for which PID %d (%s) "
                         "waited",
                         victim.pid, MyProcPid, GetCommandTagName(account.statement().tag))));
}

} // namespace

bool end_holders(std::span<const NeededLock> locks, const WaitAccount& account) {
    Victims victims = {nullptr, 0, 16};
    victims.found = static_cast<AwaitedHolder*>(palloc(sizeof(AwaitedHolder) * victims.room));
    for (const NeededLock& lock : locks) {
        for (const AwaitedHolder& holder : look_at_holders(lock.tag, lock.mode).holders)
            add(&victims, holder);
    }
    const std::span<const AwaitedHolder> all = {victims.found, victims.count};
    if (!std::ranges::all_of(all, may_end))
        return false;
    const char* detail = detail_for_victims(account);
    for (const AwaitedHolder& victim : all)
        end(victim, detail, account);
    return true;
}

} // namespace lockguard::pg
