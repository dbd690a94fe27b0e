// The emit_log_hook sees an error on its way to the server log, before the transaction is aborted
// and its locks are released. It sees none that a handler of PL/pgSQL catches, and none that
// log_min_messages keeps out of the log: an ERROR where that is "fatal" or "panic", a FATAL where
// it is "panic". shmem/failure_notes has the note.
#include "sessions/failure_watch.h"

#include "shmem/failure_notes.h"

namespace lockguard::pg {

namespace {

emit_log_hook_type previous_emit_log_hook;

/// On a standby, these are what the startup process does to those who stand in its way.
bool is_recovery_conflict(const ErrorData& error) {
    return RecoveryInProgress() && (error.sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
                                    error.sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
                                    error.sqlerrcode == ERRCODE_DATABASE_DROPPED);
}

/// Somebody, or a timeout, has ended the session. (Not: its client has gone.)
bool is_termination(const ErrorData& error) {
    switch (error.sqlerrcode) {
    case ERRCODE_ADMIN_SHUTDOWN:
    case ERRCODE_CRASH_SHUTDOWN:
    case ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT:
    case ERRCODE_IDLE_SESSION_TIMEOUT:
        return true;
    default:
        return compat::is_transaction_timeout(error.sqlerrcode) || is_recovery_conflict(error);
    }
}

core::FailureNote note_of(const ErrorData& error) {
    if (error.elevel == FATAL)
        return is_termination(error) ? core::FailureNote::terminated : core::FailureNote::none;
    if (error.sqlerrcode == ERRCODE_QUERY_CANCELED || is_recovery_conflict(error))
        return core::FailureNote::cancelled;
    if (error.sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
        return core::FailureNote::deadlock;
    if (error.sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
        return core::FailureNote::lock_timeout;
    return core::FailureNote::none;
}

/// Must not ereport: it runs within the reporting of an error.
void on_emit_log(ErrorData* error) {
    if (unlikely((error->elevel == ERROR || error->elevel == FATAL) && MyProc != nullptr)) {
        core::FailureNote note = note_of(*error);
        if (note != core::FailureNote::none)
            leave_failure_note(note,
                               error->elevel == FATAL || GetCurrentTransactionNestLevel() <= 1,
                               GetCurrentTimestamp());
    }
    if (previous_emit_log_hook != nullptr)
        previous_emit_log_hook(error);
}

} // namespace

void install_failure_watch() {
    previous_emit_log_hook = emit_log_hook;
    emit_log_hook = on_emit_log;
}

} // namespace lockguard::pg
