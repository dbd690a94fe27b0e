#include "guard/wait_notice.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/client_notice.h"
#include "boundary/clock.h"
#include "boundary/settings.h"
#include "boundary/valid_text.h"
#include "locks/lock_culprits.h"
#include "sessions/object_names.h"

extern "C" {
#include "utils/snapmgr.h"
}

namespace lockguard::pg {

using core::kMillisecond;
using core::Microseconds;

namespace {

/// Whose patience ends so soon in an error is told by that: a NOTICE would say the same, just
/// before.
constexpr Microseconds kTooLate = 100 * kMillisecond;

bool is_at_its_end(const WaitOutlook& outlook) {
    return outlook.end == core::PatienceEnd::failure && outlook.deadline != core::kUnknownTime &&
           outlook.deadline - steady_now() < kTooLate;
}

/// Where a timeout of the session comes before that, it is what ends the patience.
void heed_timeout(TimestampTz finish_time, core::PatienceEnd end, core::WaitWords* waiting) {
    if (finish_time == 0)
        return;
    const Microseconds left = std::max<Microseconds>(finish_time - GetCurrentTimestamp(), 0);
    if (waiting->patience >= 0 && waiting->patience <= left)
        return;
    waiting->patience = left;
    waiting->end = end;
}

/// In the current memory context.
core::WaitWords describe(const WaitAccount& account, const WaitOutlook& outlook) {
    core::WaitWords waiting = {};
    core::FailedWaitWords& wait = waiting.wait;
    wait.command = GetCommandTagName(account.statement().tag);
    wait.waited = account.waited();
    wait.kept_waiting = outlook.kept_waiting;
    wait.kept_waiting_for = outlook.kept_waiting_for;
    if (account.is_lock_known()) {
        const NeededLock& lock = account.lock();
        NameLookup lookup = open_name_lookup();
        wait.lock_mode = GetLockmodeName(lock.tag.locktag_lockmethodid, lock.mode);
        wait.object = locked_object_text(lock.tag, lookup);
        // Outside of the queue, who came last is in the way as much as who came first.
        AwaitedLock failed = {GetCurrentTimestamp(), true, lock.tag, lock.mode};
        wait.culprits = find_lock_culprits(failed, account.statement().reader, lookup);
        close_name_lookup(lookup);
    }
    waiting.patience = outlook.deadline == core::kUnknownTime
                           ? -1
                           : std::max<Microseconds>(outlook.deadline - steady_now(), 0);
    waiting.end = outlook.end;
    heed_timeout(get_timeout_active(STATEMENT_TIMEOUT) ? get_timeout_finish_time(STATEMENT_TIMEOUT)
                                                       : 0,
                 core::PatienceEnd::statement_timeout, &waiting);
    heed_timeout(compat::transaction_timeout_end(), core::PatienceEnd::transaction_timeout,
                 &waiting);
    waiting.pid = MyProcPid;
    waiting.is_decidable = shared_state_available();
    return waiting;
}

/// Makes the words with tell(), of a wait in words, and sends them.
template <class Tell>
void send(const WaitAccount& account, const WaitOutlook& outlook, Tell tell) {
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard notice", ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    const core::WaitWords waiting = describe(account, outlook);
    const ClientNotice words = call_core(
        context, [&](std::pmr::memory_resource& memory) { return tell(waiting, memory); });
    const ClientNotice notice = {text_for_client(words.message), text_for_client(words.detail),
                                 text_for_client(words.hint)};
    // Nothing of the look-up is to hold VACUUM back for the next second.
    InvalidateCatalogSnapshot();
    MemoryContextSwitchTo(caller);
    send_notice(notice);
    MemoryContextDelete(context);
}

} // namespace

Microseconds WaitNotices::until_due(const WaitAccount& account) const {
    if (settings.ddl_notice_interval == 0)
        return INT64_MAX;
    if (sent_at_ == 0)
        return DeadlockTimeout * kMillisecond - account.waited();
    return sent_at_ + settings.ddl_notice_interval * kMillisecond - steady_now();
}

void WaitNotices::attend(const WaitAccount& account, const WaitOutlook& outlook) {
    if (until_due(account) > 0)
        return;
    sent_at_ = steady_now();
    if (!is_notice_wanted() || is_at_its_end(outlook))
        return;
    send(account, outlook, [](const core::WaitWords& waiting, std::pmr::memory_resource& memory) {
        return ClientNotice{core::wait_notice_message(waiting, memory).data(),
                            core::wait_notice_detail(waiting, memory).data(),
                            core::wait_notice_hint(waiting, memory).data()};
    });
}

void WaitNotices::tell_queue(const WaitAccount& account, const WaitOutlook& outlook) const {
    if (settings.ddl_notice_interval == 0 || sent_at_ == 0 || !is_notice_wanted())
        return;
    send(account, outlook, [](const core::WaitWords& waiting, std::pmr::memory_resource& memory) {
        return ClientNotice{core::queue_notice_message(waiting, memory).data(), nullptr, nullptr};
    });
}

} // namespace lockguard::pg
