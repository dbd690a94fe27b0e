#include "guard/stall_limit.h"

#include <algorithm>

#include "core/words/stalls.h"

#include "boundary/bridge.h"
#include "boundary/settings.h"
#include "boundary/valid_text.h"
#include "guard/heavy_guard.h"
#include "locks/own_watch.h"
#include "locks/wait_sampler.h"
#include "sessions/guard_orders.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

namespace {

/// The transaction that has locks of a guarded statement, while it is the present one.
struct {
    LocalTransactionId lxid;
    TimestampTz since;
    CommandTag command; // the latest
    int nest_level;     // the outermost at which such a statement has run: with it its locks go
} limited;

// One guarded statement of this process after the other.
uint32 statement_number;
bool statement_runs;
bool watches_itself; // the latest: nobody else does

bool is_limited() {
    return limited.lxid != InvalidLocalTransactionId && limited.lxid == compat::lxid_of(MyProc);
}

/// Where a savepoint is rolled back behind which all guarded statements of the transaction have
/// run, their locks are gone.
void on_subtransaction(SubXactEvent event, SubTransactionId /*id*/, SubTransactionId /*parent*/,
                       void* /*argument*/) {
    if (!is_limited() || limited.nest_level < GetCurrentTransactionNestLevel())
        return;
    if (event == SUBXACT_EVENT_COMMIT_SUB) {
        limited.nest_level = GetCurrentTransactionNestLevel() - 1;
    } else if (event == SUBXACT_EVENT_ABORT_SUB) {
        limited.lxid = InvalidLocalTransactionId;
        withdraw_guarded_transaction();
    }
}

/// A transaction that is prepared keeps its locks.
void on_transaction(XactEvent event, void* /*argument*/) {
    if (event == XACT_EVENT_PRE_PREPARE && is_limited() && settings.ddl_max_stall > 0)
        publish_guarded_prepared(GetTopTransactionIdIfAny(), limited.since, settings.ddl_max_stall,
                                 limited.command);
}

void limit_transaction(CommandTag command) {
    static bool called_back;
    if (!called_back) {
        RegisterSubXactCallback(on_subtransaction, nullptr);
        RegisterXactCallback(on_transaction, nullptr);
        called_back = true;
    }
    const int nest_level = GetCurrentTransactionNestLevel();
    if (is_limited())
        limited.nest_level = std::min(limited.nest_level, nest_level);
    else
        limited = {compat::lxid_of(MyProc), GetCurrentTimestamp(), command, nest_level};
    limited.command = command;
    publish_guarded_transaction(limited.since, settings.ddl_max_stall, settings.ddl_lock_timeout);
}

/// Words for the error, in the memory context of the call. Null where there is no memory for them.
Explanation explain_report(const GuardedStatement& statement, const StallReport& report) {
    MemoryContext result_context = CurrentMemoryContext;
    MemoryContext work_context =
        AllocSetContextCreate(result_context, "pg_lockguard stall", ALLOCSET_SMALL_SIZES);
    MemoryContextSwitchTo(work_context);
    core::Stall stall = {};
    stall.kind = core::StallKind::guarded;
    stall.command = GetCommandTagName(statement.tag);
    stall.sessions = report.sessions;
    stall.longest = report.longest;
    stall.limit = settings.ddl_max_stall * core::kMillisecond;
    if (report.mode != NoLock) {
        NameLookup lookup = open_name_lookup();
        stall.lock_mode = GetLockmodeName(report.tag.locktag_lockmethodid, report.mode);
        stall.object = locked_object_text(report.tag, lookup);
        close_name_lookup(lookup);
    }
    CoreFailure failure;
    Explanation explanation = try_core(
        result_context,
        [&stall](std::pmr::memory_resource& memory) {
            return Explanation{core::stall_detail(stall, memory).data(),
                               core::stall_hint(stall, memory).data()};
        },
        &failure);
    MemoryContextSwitchTo(result_context);
    MemoryContextDelete(work_context);
    return explanation;
}

} // namespace

void StallLimit::enter(CommandTag command, StallScope scope) {
    Assert(!entered_);
    if (statement_runs)
        return;
    if (++statement_number == 0)
        statement_number = 1;
    limit_transaction(command);
    begin_to_obey(statement_number, {strike_wait, strike_worker_wait});
    statement_runs = true;
    entered_ = true; // from here on leave() has something to do
    publish_guarded_statement(statement_number, command, scope == StallScope::attempt);
    watches_itself = !is_guard_watched();
    if (watches_itself)
        start_own_watch(limited.since,
                        settings.ddl_max_stall > 0 ? settings.ddl_max_stall * core::kMillisecond
                                                   : kNoTimeLimit,
                        strike_statement);
}

void StallLimit::leave() {
    if (!entered_)
        return;
    entered_ = false;
    statement_runs = false;
    if (watches_itself)
        stop_own_watch();
    withdraw_guarded_statement();
    cease_to_obey();
}

bool waits_are_watched() {
    return is_guard_watched();
}

void explain_stall(const GuardedStatement& statement, ErrorData* error) {
    // Of a statement inside another one that is the other's error.
    if (statement_runs || !is_strike_of_statement(error))
        return;
    error->message = pstrdup(core::kStallMessage.data());
    error->message_id = nullptr;
    StallReport report;
    if (watches_itself)
        report = own_watch_report();
    else
        order_with_report(statement_number, &report);
    Explanation explanation = explain_report(statement, report);
    error->detail = const_cast<char*>(explanation.detail);
    error->hint = const_cast<char*>(explanation.hint);
    const char* work = latest_heavy_work();
    if (work != nullptr)
        error->detail = psprintf("%s%sIt was %s.", error->detail == nullptr ? "" : error->detail,
                                 error->detail == nullptr ? "" : " ", work);
    error->detail = const_cast<char*>(text_for_client(error->detail));
    error->hint = const_cast<char*>(text_for_client(error->hint));
}

EndedWait ended_wait() {
    if (watches_itself) // nobody has ended it for that, but it may have kept others waiting
        return {own_watch_longest(), {}};
    StallReport report;
    const GuardOrder order = order_with_report(statement_number, &report);
    if (order != GuardOrder::end_wait && order != GuardOrder::end_worker_wait)
        return {};
    return {report.longest, {report.wait_start, true, report.own_tag, report.own_mode}};
}

void max_stall_changed(int max_stall) {
    if (MyProc != nullptr && is_limited())
        publish_guarded_transaction(limited.since, max_stall, settings.ddl_lock_timeout);
}

} // namespace lockguard::pg
