// Runs in the victim. SIGTERM and SIGINT carry no text, so whoever sends them leaves a notice in
// shared memory (shmem/termination_notice, cancel_notice), and the victim adds it to its own
// farewell, or to the error of its cancelled statement.
//
// A change of a message's content in emit_log_hook is not promised by PostgreSQL, and the hook does
// not run for what log_min_messages keeps out of the server log: a FATAL where that is "panic", an
// ERROR where it is "fatal" or "panic". So this is a courtesy; the record is the worker's line in
// the server log.
#include "worker/victim_notice.h"

#include "core/words/terminations.h"
#include "boundary/bridge.h"
#include "shmem/cancel_notice.h"
#include "shmem/termination_notice.h"

namespace lockguard::features {

namespace {

emit_log_hook_type previous_emit_log_hook;

/// before and text on lines of their own, in the error's own memory. No memory, no text: returns
/// `before` as it was. Never ereports.
char* appended(const ErrorData& error, char* before, const char* text, std::size_t length) {
    std::size_t kept = before != nullptr ? strlen(before) + 1 : 0;
    auto* result = static_cast<char*>(
        MemoryContextAllocExtended(error.assoc_context, kept + length + 1, MCXT_ALLOC_NO_OOM));
    if (result == nullptr)
        return before;
    if (kept > 0) {
        memcpy(result, before, kept - 1);
        result[kept - 1] = '\n';
    }
    memcpy(result + kept, text, length);
    result[kept + length] = '\0';
    return result;
}

/// PostgreSQL 19 has a DETAIL of its own here (who has sent the signal), which stays.
void add_notice(ErrorData* error) {
    // The transaction has not been aborted yet: a FATAL is reported where it is raised, and the
    // clean-up follows on the way out. So the transaction's lxid is still in place.
    char detail[pg::kNoticeDetailBytes];
    if (!pg::take_termination_notice(pg::compat::procno_of(MyProc), MyProcPid,
                                     pg::compat::lxid_of(MyProc), &detail))
        return;
    error->detail = appended(*error, error->detail, detail, strlen(detail));

    pg::CoreFailure failure;
    auto hint = pg::try_core(
        error->assoc_context, [](std::pmr::memory_resource&) { return core::victim_hint(); },
        &failure);
    if (!failure.failed)
        error->hint = appended(*error, error->hint, hint.data(), hint.size());
}

/// Is it what a session raises that has been sent a cancel request? It has not been sent it by a
/// timeout of its own then, nor by a conflict with recovery.
bool is_cancel(const ErrorData& error) {
    return error.elevel == ERROR && error.sqlerrcode == ERRCODE_QUERY_CANCELED &&
           error.message_id != nullptr && strstr(error.message_id, "user request") != nullptr;
}

/// An error is reported where its transaction is aborted, before that: lxid and status are still
/// those of the statement.
void add_cancel_notice(ErrorData* error) {
    pg::CancelNotice notice;
    if (MyBEEntry == nullptr ||
        !pg::take_cancel_notice(pg::compat::procno_of(MyProc), MyProcPid,
                                pg::compat::lxid_of(MyProc), MyBEEntry->st_state_start_timestamp,
                                &notice))
        return;
    if (notice.message[0] != '\0') {
        char* message = appended(*error, nullptr, notice.message, strlen(notice.message));
        error->message = message != nullptr ? message : error->message;
    }
    if (notice.detail[0] != '\0')
        error->detail = appended(*error, error->detail, notice.detail, strlen(notice.detail));
    if (notice.hint[0] != '\0')
        error->hint = appended(*error, error->hint, notice.hint, strlen(notice.hint));
}

/// Must not ereport: it runs within the reporting of an error.
void on_emit_log(ErrorData* error) {
    if (unlikely(error->elevel == FATAL && error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN &&
                 MyProc != nullptr))
        add_notice(error);
    else if (unlikely(MyProc != nullptr && is_cancel(*error)))
        add_cancel_notice(error);
    if (previous_emit_log_hook != nullptr)
        previous_emit_log_hook(error);
}

} // namespace

void install_victim_notice() {
    previous_emit_log_hook = emit_log_hook;
    emit_log_hook = on_emit_log;
}

} // namespace lockguard::features
