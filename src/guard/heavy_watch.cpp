#include "guard/heavy_watch.h"

#include <charconv>
#include <iterator>
#include <string_view>

#include "boundary/memory.h"
#include "boundary/settings.h"
#include "guard/lock_target_facts.h"
#include "guard/setting_scope.h"
#include "locks/own_locks.h"
#include "sessions/interrupt_watch.h"

extern "C" {
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "storage/bufmgr.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

using core::HeavyKind;
using core::HeavyMessage;
using core::HeavySubject;

/// The state of the hook is this process' own.
struct HeavyWatchHook {
    static void on_emit_log(ErrorData* error);
    static void install();
    static void tell(const ErrorData& error, HeavyMessage message);

    static inline emit_log_hook_type next;
    static inline const HeavyWatch* watch; // the innermost
    static inline bool is_telling;         // what the handler says in turn is not looked at
};

namespace {

/// What the server log would have without us, while log_min_messages is lowered. It outlives the
/// watch that has lowered it where that ends by an error: until the abort has set it back.
struct {
    bool active;
    int level;      // log_min_messages as it was
    int nest_level; // of transactions
    LocalTransactionId transaction;
} lowered;

/// The latest foreign key that was announced to the watch, and what came of that. All partitions
/// have it by the same name, so that one answer is good for all of them: until the catalogs are
/// written to, as by another statement that runs inside (an event trigger's), whose key may be
/// named alike.
struct {
    char text[128]; // empty where there is none
    CommandId command;
    HeavyWork work;
    bool is_empty;
} latest_key;

/// In a parallel worker whose leader has lowered it: what it was. Negative elsewhere.
int level_in_worker = -1;

/// Is the setting still as we have set it? The abort of its (sub)transaction sets it back, and
/// nobody tells us. Nor that the process ends: what it logs after it has given its place among the
/// processes up (log_disconnections) comes after the abort of its transaction.
bool is_still_lowered() {
    if (!lowered.active)
        return false;
    if (MyProc == nullptr) {
        lowered.active = false;
        return false;
    }
    const LocalTransactionId now = compat::lxid_of(MyProc);
    lowered.active = compat::server_log_level() < lowered.level &&
                     GetCurrentTransactionNestLevel() >= lowered.nest_level &&
                     (now == lowered.transaction || now == InvalidLocalTransactionId);
    return lowered.active;
}

/// Would the server log have a message of that level? LOG stands between ERROR and FATAL there.
bool is_logged(int level, int least) {
    if (level == LOG || level == LOG_SERVER_ONLY)
        return least == LOG || least <= ERROR;
    if (level == WARNING_CLIENT_ONLY)
        return false;
    return least == LOG ? level >= FATAL : level >= least;
}

int64 bytes_of(Relation relation) {
    return RELKIND_HAS_STORAGE(relation->rd_rel->relkind)
               ? static_cast<int64>(RelationGetNumberOfBlocks(relation)) * BLCKSZ
               : 0;
}

/// With its indexes.
int64 bytes_of_all(Relation relation) {
    int64 bytes = bytes_of(relation);
    List* indexes = RelationGetIndexList(relation);
    for (int i = 0; i < list_length(indexes); i++) {
        Relation index = RelationIdGetRelation(list_nth_oid(indexes, i));
        if (!RelationIsValid(index))
            continue;
        bytes += bytes_of(index);
        RelationClose(index);
    }
    list_free(indexes);
    return bytes;
}

/// The table that a message is about, if it is about this relation or something of it; else
/// InvalidOid.
Oid table_meant(const char* text, HeavySubject subject, Oid relation) {
    const char* name = get_rel_name(relation);
    if (name == nullptr)
        return InvalidOid;
    switch (subject) {
    case HeavySubject::table:
        return core::names_subject(subject, text, name, {}) ? relation : InvalidOid;
    case HeavySubject::index_and_table: {
        if (get_rel_relkind(relation) != RELKIND_INDEX)
            return InvalidOid;
        Oid table = IndexGetRelation(relation, true);
        const char* table_name = OidIsValid(table) ? get_rel_name(table) : nullptr;
        return table_name != nullptr && core::names_subject(subject, text, name, table_name)
                   ? table
                   : InvalidOid;
    }
    case HeavySubject::constraint: {
        std::string_view named = core::named_constraint(text);
        const char* constraint_name = pnstrdup(named.data(), named.size());
        Oid constraint = get_relation_constraint_oid(relation, constraint_name, true);
        return OidIsValid(constraint) && is_foreign_key(constraint) ? relation : InvalidOid;
    }
    case HeavySubject::schema_table: {
        const char* schema = get_namespace_name(get_rel_namespace(relation));
        return schema != nullptr && core::names_subject(subject, text, name, schema) ? relation
                                                                                     : InvalidOid;
    }
    }
    return InvalidOid;
}

/// Has this transaction any lock on it? By its own table of locks: nobody else is asked.
bool is_locked(Oid relation) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
    for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++) {
        if (compat::holds_lock(tag, mode))
            return true;
    }
    return false;
}

using Relations = GrowingArray<Oid>;

/// Adds those of that name, in whatever schema.
void add_relations_named(std::string_view text, Relations* found) {
    NameData name = {};
    if (text.size() >= sizeof(name.data))
        return;
    text.copy(name.data, text.size());
    CatCList* list = SearchSysCacheList1(RELNAMENSP, NameGetDatum(&name));
    for (int i = 0; i < list->n_members; i++)
        found->add(reinterpret_cast<Form_pg_class>(GETSTRUCT(&list->members[i]->tuple))->oid);
    ReleaseSysCacheList(list);
}

/// Adds the tables that have a constraint of that name.
void add_tables_with_constraint(std::string_view text, Relations* found) {
    NameData name = {};
    if (text.size() >= sizeof(name.data))
        return;
    text.copy(name.data, text.size());
    Relation constraints = table_open(ConstraintRelationId, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_constraint_conname, BTEqualStrategyNumber, F_NAMEEQ,
                NameGetDatum(&name));
    SysScanDesc scan =
        systable_beginscan(constraints, ConstraintNameNspIndexId, true, nullptr, 1, &key);
    for (HeapTuple row = systable_getnext(scan); HeapTupleIsValid(row);
         row = systable_getnext(scan)) {
        const Oid table = reinterpret_cast<Form_pg_constraint>(GETSTRUCT(row))->conrelid;
        if (OidIsValid(table))
            found->add(table);
    }
    systable_endscan(scan);
    table_close(constraints, AccessShareLock);
}

/// The relations that the message may be about. Not all that are locked, where that can be helped:
/// of each of a thousand partitions there are messages, and a thousand times as many locks.
Relations candidates_of(std::string_view text, HeavySubject subject) {
    Relations found;
    const std::size_t begin = text.find('"') + 1; // 0 where there is none
    switch (subject) {
    case HeavySubject::table:
        if (begin > 0 && text.rfind('"') >= begin)
            add_relations_named(text.substr(begin, text.rfind('"') - begin), &found);
        break;
    case HeavySubject::index_and_table:
        for (std::size_t end = begin == 0 ? text.npos : text.find('"', begin); end != text.npos;
             end = text.find('"', end + 1)) {
            if (text.substr(end).starts_with("\" on table \""))
                add_relations_named(text.substr(begin, end - begin), &found);
        }
        break;
    case HeavySubject::constraint:
        add_tables_with_constraint(core::named_constraint(text), &found);
        break;
    case HeavySubject::schema_table:
        for (const OwnLock& lock : find_own_locks()) {
            if (!lock.shared)
                found.add(lock.relation);
        }
        break;
    }
    return found;
}

/// Messages carry names only, but what they are about is locked by then. Of two that are named
/// alike it is taken to be the larger one.
HeavyWork work_of(const char* text, HeavyMessage message, bool* is_empty) {
    HeavyWork work = {message.kind, InvalidOid, -1};
    *is_empty = false;
    for (Oid relation : candidates_of(text, message.subject)) {
        Oid table = is_locked(relation) ? table_meant(text, message.subject, relation) : InvalidOid;
        if (!OidIsValid(table))
            continue;
        WorkSize size = size_of_work(message.kind, table);
        if (OidIsValid(work.relation) && size.bytes <= work.size)
            continue;
        work.relation = table;
        work.size = size.bytes;
        *is_empty = size.is_empty;
    }
    return work;
}

/// Of level DEBUG1 it says one thing: that there is no room in the queue of what is to be synced.
/// That comes also while a relation's file is made, before it is noted that it is to be removed:
/// whoever is ended there leaves it.
bool is_from_file_manager(const ErrorData& error) {
    return error.filename != nullptr && strcmp(error.filename, "md.c") == 0;
}

} // namespace

WorkSize size_of_work(HeavyKind kind, Oid relation) {
    Relation opened = RelationIdGetRelation(relation);
    if (!RelationIsValid(opened))
        return {false, -1};
    int64 bytes = bytes_of(opened);
    const bool is_empty = bytes == 0;
    if (kind == HeavyKind::rewrite) {
        bytes = bytes_of_all(opened);
        Relation toast = OidIsValid(opened->rd_rel->reltoastrelid)
                             ? RelationIdGetRelation(opened->rd_rel->reltoastrelid)
                             : nullptr;
        if (RelationIsValid(toast)) {
            bytes += bytes_of_all(toast);
            RelationClose(toast);
        }
    }
    RelationClose(opened);
    return {is_empty, bytes};
}

// ---- The hook

void HeavyWatchHook::install() {
    static bool installed;
    if (installed)
        return;
    // As late as this, so that it comes before those of other libraries: they are not to see what
    // the server log would not have had.
    next = emit_log_hook;
    emit_log_hook = on_emit_log;
    installed = true;
}

void HeavyWatchHook::tell(const ErrorData& error, HeavyMessage message) {
    // Where nothing can be looked up the message passes. (None of ours comes from there.)
    if (CritSectionCount != 0 || !IsTransactionState() || IsAbortedTransactionBlockState())
        return;
    is_telling = true;
    MemoryContext context = AllocSetContextCreate(CurTransactionContext, "pg_lockguard heavy work",
                                                  ALLOCSET_DEFAULT_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(context);
    bool is_empty;
    HeavyWork work;
    const bool is_key = message.subject == HeavySubject::constraint;
    const CommandId command = GetCurrentCommandId(false);
    if (is_key && latest_key.command == command && strcmp(latest_key.text, error.message) == 0) {
        work = latest_key.work;
        is_empty = latest_key.is_empty;
    } else {
        work = work_of(error.message, message, &is_empty);
        if (is_key && strlen(error.message) < sizeof(latest_key.text)) {
            strlcpy(latest_key.text, error.message, sizeof(latest_key.text));
            latest_key.command = command;
            latest_key.work = work;
            latest_key.is_empty = is_empty;
        }
    }
    if (!is_empty)
        watch->handler_(work, watch->argument_);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    is_telling = false;
}

void HeavyWatchHook::on_emit_log(ErrorData* error) {
    if (watch != nullptr && !is_telling && error->elevel <= INFO && error->message_id != nullptr &&
        error->message != nullptr) {
        HeavyMessage message = core::heavy_message(error->message_id);
        if (message.kind != HeavyKind::none) {
            if (watch->is_silent_)
                error->output_to_client = false;
            tell(*error, message);
        }
    }
    // REINDEX (VERBOSE) would tell the client of what is rolled back.
    if (watch != nullptr && watch->is_silent_ && error->elevel == INFO)
        error->output_to_client = false;
    if (is_still_lowered() && !is_logged(error->elevel, lowered.level)) {
        error->output_to_server = false;
        if (watch != nullptr && !error->output_to_client && is_from_file_manager(*error))
            put_off_interrupts();
        return;
    }
    if (level_in_worker >= 0 && !is_logged(error->elevel, level_in_worker)) {
        error->output_to_server = false;
        return;
    }
    if (next != nullptr)
        next(error);
}

// ---- The watch

namespace {

/// For the length of the nest level. A watch outside of this one has told them before it lowered.
void tell_workers(int level) {
    if (settings.parallel_log_level >= 0)
        return;
    char value[16] = "";
    std::to_chars(std::begin(value), std::end(value) - 1, level);
    set_config_option("pg_lockguard.parallel_log_level", value, PGC_SUSET, PGC_S_SESSION,
                      GUC_ACTION_SAVE, true, 0, false);
}

} // namespace

void parallel_log_level_changed(int level) {
    if (!IsParallelWorker())
        return;
    level_in_worker = level;
    if (level >= 0)
        HeavyWatchHook::install();
}

void HeavyWatch::enter(const Node* statement, bool is_silent, HeavyHandler handler,
                       void* argument) {
    HeavyWatchHook::install();
    allow_putting_off_interrupts();
    latest_key.text[0] = '\0';
    // What clusters a table says so two levels down only.
    const bool clusters =
        nodeTag(statement) == compat::kClusterStatement || nodeTag(statement) == T_VacuumStmt;
    const int wanted = clusters ? DEBUG2 : DEBUG1;
    const int level = compat::server_log_level();
    if (level > wanted) {
        const int workers_level = compat::server_log_level(B_BG_WORKER);
        before_ = pstrdup(GetConfigOption("log_min_messages", false, false));
        nest_level_ = NewGUCNestLevel();
        set_config_option("log_min_messages", clusters ? "debug2" : "debug1", PGC_SUSET,
                          PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
        tell_workers(workers_level);
        level_ = compat::server_log_level();
        transaction_ = compat::lxid_of(MyProc);
        // A watch outside of this one knows what the log would have had.
        if (!is_still_lowered())
            lowered = {true, level, GetCurrentTransactionNestLevel(), transaction_};
    }
    outer_ = HeavyWatchHook::watch;
    handler_ = handler;
    argument_ = argument;
    is_silent_ = is_silent;
    HeavyWatchHook::watch = this;
}

void HeavyWatch::leave() const {
    abandon();
    // A commit in between has restored it already, and taken the nest level with it.
    if (nest_level_ != 0 && transaction_ == compat::lxid_of(MyProc)) {
        const bool is_ours = compat::server_log_level() == level_;
        end_setting("log_min_messages", nest_level_, is_ours);
        if (is_ours && strcmp(GetConfigOption("log_min_messages", false, false), before_) != 0)
            restore_setting("log_min_messages", before_);
    }
    lowered.active = is_still_lowered();
}

void HeavyWatch::abandon() const {
    if (HeavyWatchHook::watch != this)
        return; // ended before, or never entered
    resume_interrupts();
    HeavyWatchHook::watch = outer_;
    HeavyWatchHook::is_telling = false;
}

} // namespace lockguard::pg
