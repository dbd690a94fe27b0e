// Sees a statement of this session begin heavy work, before the first page of it is read.
//
// PostgreSQL says so by messages of level DEBUG1 (DEBUG2 where it clusters). They are made only
// where the server log or the client wants them, so log_min_messages is lowered for the length of
// the statement, at a nest level of settings; and an emit_log_hook takes out of the log what the
// lowering has brought there. (Parallel workers have the lowered setting as well, and are handed
// the level that it had.) The hook runs inside the report of the message, right before the check
// for interrupts that ends each report: so the statement can be cut short there
// (sessions/own_cancel). The check at other messages that are made for us alone does no harm,
// but for one, where the interrupts are put off (sessions/interrupt_watch).
#pragma once

#include "core/heavy_work.h"

#include "boundary/compat.h"

namespace lockguard::pg {

/// What a statement is about to do.
struct HeavyWork {
    core::HeavyKind kind;
    Oid relation; // the table; InvalidOid where it could not be told
    int64 size;   // bytes that are read, or that are written by a rewrite; negative where unknown
};

/// Is told of heavy work on a relation that is not empty. Runs inside the report of a message, in a
/// memory context of its own: it may look at catalogs and raise a WARNING, and must not raise an
/// ERROR on purpose.
using HeavyHandler = void (*)(const HeavyWork& work, void* argument);

/// One statement's. Plain data; watches nest, and the innermost is told.
class HeavyWatch {
  public:
    /// Starts. May ereport. Belongs into the (sub)transaction in which leave() is called.
    ///
    /// \param statement  decides which messages there can be
    /// \param is_silent  the client is not to see such messages either (VERBOSE)
    void enter(const Node* statement, bool is_silent, HeavyHandler handler, void* argument);

    /// Ends the watch, and gives the setting back. An error needs no leave(), but abandon().
    void leave() const;

    /// Ends the watch where an error has struck: the abort of the (sub)transaction gives the
    /// setting back, and until then its messages are still kept out of the log. Never ereports;
    /// does nothing where the watch has ended, or was never entered.
    void abandon() const;

  private:
    friend struct HeavyWatchHook;
    const HeavyWatch* outer_ = nullptr;
    HeavyHandler handler_ = nullptr;
    void* argument_ = nullptr;
    bool is_silent_ = false;
    LocalTransactionId transaction_ = InvalidLocalTransactionId;
    int nest_level_ = 0;
    int level_ = 0;                // to which it has lowered the setting
    const char* before_ = nullptr; // what that was, as text
};

/// pg_lockguard.parallel_log_level has been assigned in this process, which may be a parallel
/// worker. Never ereports.
void parallel_log_level_changed(int level);

/// How much work of a kind on that relation, which is locked, would be; and whether it is none.
/// Looks at the files; may ereport.
struct WorkSize {
    bool is_empty;
    int64 bytes;
};
WorkSize size_of_work(core::HeavyKind kind, Oid relation);

} // namespace lockguard::pg
