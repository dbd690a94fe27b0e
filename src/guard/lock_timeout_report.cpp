#include "guard/lock_timeout_report.h"

#include "boundary/bridge.h"
#include "boundary/valid_text.h"
#include "guard/ddl_event.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

namespace {

void record_timeout(const core::FailedWaitWords& wait, const FailedWait& vain) {
    DdlEvent event = {};
    event.kind = EventKind::ddl_timeout;
    event.command = wait.command.data();
    event.lock_known = vain.lock.lock_known;
    event.tag = vain.lock.tag;
    event.mode = vain.lock.mode;
    event.waited = wait.waited;
    event.stall = vain.stall;
    event.attempts = vain.attempts;
    event.culprits = wait.culprits;
    record_ddl_event(event, vain.lock.lock_known ? wait.object.data() : nullptr);
}

} // namespace

Explanation explain(const GuardedStatement& statement, const FailedWait& vain) {
    Assert(IsTransactionState());
    MemoryContext result_context = CurrentMemoryContext;
    MemoryContext work_context =
        AllocSetContextCreate(result_context, "pg_lockguard lock timeout", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(work_context);
    core::FailedWaitWords wait = {};
    wait.command = GetCommandTagName(statement.tag);
    wait.waited = vain.waited;
    wait.kept_waiting = vain.kept_waiting;
    wait.kept_waiting_for = vain.kept_waiting_for;
    if (vain.lock.lock_known) {
        NameLookup lookup = open_name_lookup();
        wait.lock_mode = GetLockmodeName(vain.lock.tag.locktag_lockmethodid, vain.lock.mode);
        wait.object = locked_object_text(vain.lock.tag, lookup);
        wait.culprits = find_lock_culprits(vain.lock, statement.reader, lookup);
        close_name_lookup(lookup);
    }
    if (vain.recorded)
        record_timeout(wait, vain);

    CoreFailure failure;
    Explanation explanation = try_core(
        result_context,
        [&wait](std::pmr::memory_resource& memory) {
            return Explanation{core::failed_wait_detail(wait, memory).data(),
                               core::failed_wait_hint(wait, memory).data()};
        },
        &failure);
    MemoryContextSwitchTo(result_context);
    MemoryContextDelete(work_context);
    return {text_for_client(explanation.detail), text_for_client(explanation.hint)};
}

} // namespace lockguard::pg
