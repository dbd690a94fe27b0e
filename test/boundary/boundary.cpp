// SQL functions that fail in every way in which C++ and PostgreSQL can fail, through the bridge
// that the extension uses, for test/tap/boundary.pl; what other libraries do to a session; and a
// background worker of a type that is no text, for test/tap/lock_tree_valid_text.pl. Never
// installed.
#include "boundary/bridge.h"

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
#include "access/table.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(boundary_throw);
PG_FUNCTION_INFO_V1(boundary_try);
PG_FUNCTION_INFO_V1(boundary_ask_too_much);
PG_FUNCTION_INFO_V1(boundary_exhaust);
PG_FUNCTION_INFO_V1(boundary_ereport);
PG_FUNCTION_INFO_V1(boundary_cancelled_subtransaction);
PG_FUNCTION_INFO_V1(boundary_fail_while_extending);
PG_FUNCTION_INFO_V1(boundary_fail_slowly);
PG_FUNCTION_INFO_V1(boundary_handle_sigint);
PG_FUNCTION_INFO_V1(boundary_keep_one_handler);
PG_FUNCTION_INFO_V1(boundary_run_handling_sigint);
PG_FUNCTION_INFO_V1(boundary_signal_at_message);
PG_FUNCTION_INFO_V1(boundary_cancel_at_invalidation);
PG_FUNCTION_INFO_V1(boundary_count_queries);
PG_FUNCTION_INFO_V1(boundary_balance);
PG_FUNCTION_INFO_V1(boundary_start_worker);

PGDLLEXPORT void boundary_worker_main(Datum argument);
}

namespace {

using lockguard::pg::call_core;
using lockguard::pg::CoreFailure;
using lockguard::pg::run_guarded;
using lockguard::pg::run_in_subtransaction;
using lockguard::pg::try_core;

// Of this backend, since it loaded the module.
int64_t made = 0;
int64_t destroyed = 0;
int64_t cleanups = 0;

/// Owns memory of the heap as well as of the context, and is counted.
class Witness {
  public:
    explicit Witness(std::pmr::memory_resource& memory)
        : numbers_(64, 0, &memory), heap_(256, 'x') {
        ++made;
    }
    Witness(const Witness& other)
        : numbers_(other.numbers_, other.numbers_.get_allocator()), heap_(other.heap_) {
        ++made;
    }
    Witness& operator=(const Witness&) = delete;
    ~Witness() { ++destroyed; }

  private:
    std::pmr::vector<std::int64_t> numbers_;
    std::string heap_;
};

struct NotAnException {
    int number;
};

void throw_kind(const char* kind) {
    if (std::strcmp(kind, "bad_alloc") == 0)
        throw std::bad_alloc();
    if (std::strcmp(kind, "bad_array_new_length") == 0)
        throw std::bad_array_new_length();
    if (std::strcmp(kind, "length_error") == 0)
        throw std::length_error("a length error");
    if (std::strcmp(kind, "runtime_error") == 0)
        throw std::runtime_error("a runtime error");
    if (std::strcmp(kind, "long_message") == 0)
        throw std::runtime_error(std::string(100000, 'm'));
    if (std::strcmp(kind, "at") == 0)
        std::vector<int>().at(1) = 0;
    if (std::strcmp(kind, "int") == 0)
        throw 42;
    if (std::strcmp(kind, "struct") == 0)
        throw NotAnException{42};
}

/// Fails `depth` frames down, with witnesses in every frame and in a container.
int fail_deep_down(std::pmr::memory_resource& memory, const char* kind, int depth) {
    Witness witness(memory);
    std::pmr::vector<Witness> witnesses(&memory);
    for (int i = 0; i < 3; ++i)
        witnesses.emplace_back(memory);
    if (depth > 0)
        return fail_deep_down(memory, kind, depth - 1) + 1;
    throw_kind(kind);
    return 0;
}

/// Takes memory in ever smaller pieces until not even 64 bytes are left.
int take_all_memory(std::pmr::memory_resource& memory) {
    struct Piece {
        Piece* next;
        std::size_t bytes;
    };
    struct Pieces {
        std::pmr::memory_resource& memory;
        Piece* first = nullptr;
        ~Pieces() {
            while (first != nullptr) {
                Piece* piece = first;
                first = piece->next;
                memory.deallocate(piece, piece->bytes);
            }
        }
    };
    Witness witness(memory);
    Pieces pieces{memory};
    for (std::size_t bytes = std::size_t{1} << 20; bytes >= 64; bytes /= 4) {
        try {
            for (;;) {
                auto* piece = static_cast<Piece*>(memory.allocate(bytes));
                std::memset(static_cast<void*>(piece), 1, bytes);
                *piece = Piece{pieces.first, bytes};
                pieces.first = piece;
            }
        } catch (const std::bad_alloc&) {
            if (bytes == 64)
                throw;
        }
    }
    return 0;
}

/// At which event of a subtransaction a cancel comes, while one is awaited.
struct {
    bool awaited;
    SubXactEvent at;
} cancel;

void cancel_at(SubXactEvent event, SubTransactionId /*id*/, SubTransactionId /*parent*/,
               void* /*argument*/) {
    if (!cancel.awaited || event != cancel.at)
        return;
    cancel.awaited = false;
    // As the handler of the signal.
    InterruptPending = 1;
    QueryCancelPending = 1;
}

// Handlers of SIGINT that others may have. They call whoever was there before with the number of
// the signal alone, whatever he may want, as PostGIS does.
using SigintHandler = void (*)(int number);

volatile sig_atomic_t sigints = 0;       // that the library's handler has seen
SigintHandler before_library;            // null where it is not there
volatile sig_atomic_t passing_on = true; // does the language's do so?
SigintHandler before_language;

// As pqsignal() has it from PostgreSQL 17 on, where that is asked for.
bool keeps_one_handler = false;
volatile SigintHandler kept_handler;

void on_kept(int number) {
    (*kept_handler)(number);
}

SigintHandler put_handler(SigintHandler handler) {
    struct sigaction ours = {};
    struct sigaction before;
    ours.sa_handler = keeps_one_handler ? on_kept : handler;
    ours.sa_flags = SA_RESTART;
    const SigintHandler kept_before = kept_handler;
    kept_handler = handler;
    sigaction(SIGINT, &ours, &before);
    return before.sa_handler == on_kept ? kept_before : before.sa_handler;
}

void on_sigint_of_library(int number) {
    sigints = sigints + 1;
    before_library(number);
}

void on_sigint_of_language(int number) {
    if (passing_on)
        before_language(number);
}

/// The signal that comes while the server reports a message that begins so and has no context, at
/// the last of the times that are counted down.
struct {
    int number;
    int32 times; // 0: it has come, or there is none
    char beginning[64];
    emit_log_hook_type next;
} at_message;

void on_message(ErrorData* error) {
    if (at_message.times != 0 && error->context == nullptr && error->message != nullptr &&
        strncmp(error->message, at_message.beginning, strlen(at_message.beginning)) == 0 &&
        --at_message.times == 0)
        kill(MyProcPid, at_message.number);
    if (at_message.next != nullptr)
        at_message.next(error);
}

/// See boundary_cancel_at_invalidation().
struct {
    Oid relation;
    int32 times;
    bool called_back;
} at_invalidation;

void on_invalidation(Datum /*argument*/, Oid relation) {
    // None while the transaction is rolled back.
    if (at_invalidation.times == 0 || relation != at_invalidation.relation ||
        !IsTransactionState() || --at_invalidation.times > 0)
        return;
    InterruptPending = 1;
    QueryCancelPending = 1;
    CHECK_FOR_INTERRUPTS();
}

/// The queries of this backend that have begun since its first boundary_count_queries().
struct {
    int32 number;
    bool counted;
    ExecutorStart_hook_type next;
} queries;

void on_executor_start(QueryDesc* query, int flags) {
    queries.number++;
    if (queries.next != nullptr)
        queries.next(query, flags);
    else
        standard_ExecutorStart(query, flags);
}

rlim_t address_space_in_use() {
    FILE* file = AllocateFile("/proc/self/statm", "r");
    unsigned long pages = 0;
    if (file == nullptr || fscanf(file, "%lu", &pages) != 1)
        ereport(ERROR, (errmsg("could not read /proc/self/statm")));
    FreeFile(file);
    return static_cast<rlim_t>(pages) * static_cast<rlim_t>(getpagesize());
}

} // namespace

extern "C" {

/// boundary_throw(kind text): throws that kind of exception deep down in the core.
PGDLLEXPORT Datum boundary_throw(PG_FUNCTION_ARGS) {
    const char* kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
    PG_RETURN_INT32(call_core(CurrentMemoryContext, [kind](std::pmr::memory_resource& memory) {
        return fail_deep_down(memory, kind, 4);
    }));
}

/// boundary_try(kind text) -> text: the same through try_core: says what it noted.
PGDLLEXPORT Datum boundary_try(PG_FUNCTION_ARGS) {
    const char* kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
    CoreFailure failure = {};
    int result = try_core(
        CurrentMemoryContext,
        [kind](std::pmr::memory_resource& memory) { return fail_deep_down(memory, kind, 4); },
        &failure);
    PG_RETURN_TEXT_P(
        cstring_to_text(psprintf("result %d, failed %d, out of memory %d: %s", result,
                                 failure.failed, failure.out_of_memory, failure.message)));
}

/// boundary_ask_too_much(bytes int8): one vector of that size from the context.
PGDLLEXPORT Datum boundary_ask_too_much(PG_FUNCTION_ARGS) {
    auto bytes = static_cast<std::size_t>(PG_GETARG_INT64(0));
    PG_RETURN_INT32(call_core(CurrentMemoryContext, [bytes](std::pmr::memory_resource& memory) {
        Witness witness(memory);
        std::pmr::vector<char> huge(&memory);
        huge.reserve(bytes);
        return static_cast<int>(huge.capacity() > 0);
    }));
}

/// boundary_exhaust(megabytes int4): lets the core use up all memory, after limiting the address
/// space of this backend to so much more than it has. The limit is lifted again on the way out.
PGDLLEXPORT Datum boundary_exhaust(PG_FUNCTION_ARGS) {
    rlimit before;
    if (getrlimit(RLIMIT_AS, &before) != 0)
        ereport(ERROR, (errmsg("could not read the limit: %m")));
    rlimit limited = before;
    limited.rlim_cur = address_space_in_use() + (static_cast<rlim_t>(PG_GETARG_INT32(0)) << 20);
    int result = 0;
    run_guarded(
        [&limited, &result] {
            if (setrlimit(RLIMIT_AS, &limited) != 0)
                ereport(ERROR, (errmsg("could not set the limit: %m")));
            result = call_core(CurrentMemoryContext, take_all_memory);
        },
        [&before] { setrlimit(RLIMIT_AS, &before); });
    PG_RETURN_INT32(result);
}

/// boundary_ereport(): core works, then PostgreSQL raises an error of its own with all its parts.
PGDLLEXPORT Datum boundary_ereport(PG_FUNCTION_ARGS) {
    run_guarded(
        [] {
            int sum = call_core(CurrentMemoryContext, [](std::pmr::memory_resource& memory) {
                Witness first(memory);
                Witness second(memory);
                return 41;
            });
            ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("message %d", sum),
                            errdetail("detail %d", sum), errhint("hint %d", sum)));
        },
        [] { ++cleanups; });
    PG_RETURN_VOID();
}

/// boundary_cancelled_subtransaction(how text) -> text: runs a subtransaction to which a cancel
/// comes while it "begins", while what it has done is "kept" or "undone", or while it is rolled
/// back because it "fails". Says how it ended, where the cancel has not ended it.
PGDLLEXPORT Datum boundary_cancelled_subtransaction(PG_FUNCTION_ARGS) {
    static bool registered;
    if (!registered) {
        RegisterSubXactCallback(cancel_at, nullptr);
        registered = true;
    }
    const char* how = text_to_cstring(PG_GETARG_TEXT_PP(0));
    const bool begins = std::strcmp(how, "begins") == 0;
    const bool kept = begins || std::strcmp(how, "kept") == 0;
    const bool fails = std::strcmp(how, "fails") == 0;
    cancel = {true, begins ? SUBXACT_EVENT_START_SUB
                           : (kept ? SUBXACT_EVENT_COMMIT_SUB : SUBXACT_EVENT_ABORT_SUB)};
    const auto end = run_in_subtransaction(
        [=] {
            if (fails)
                ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("expected")));
            return kept;
        },
        [](const ErrorData* error) { return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE; });
    CHECK_FOR_INTERRUPTS();
    PG_RETURN_TEXT_P(cstring_to_text(end.kept ? "kept" : "rolled back"));
}

/// boundary_fail_while_extending(locked regclass, extended regclass): waits for a lock that is not
/// to be had, and has got the lock on a relation's extension by the time that its error is seen.
PGDLLEXPORT Datum boundary_fail_while_extending(PG_FUNCTION_ARGS) {
    const Oid locked = PG_GETARG_OID(0);
    const Oid extended = PG_GETARG_OID(1);
    Relation relation = table_open(extended, AccessShareLock);
    PG_TRY();
    LockRelationOid(locked, AccessExclusiveLock);
    PG_CATCH();
    {
        LockRelationForExtension(relation, ExclusiveLock);
        PG_RE_THROW();
    }
    PG_END_TRY();
    PG_RETURN_VOID();
}

/// boundary_fail_slowly(first regclass, then regclass): waits for a lock, or where there is none to
/// wait for until it is cancelled. When that fails it takes its time to clean up: waits for the
/// other lock, or else, shown as wait event Extension, until the statement is cancelled again or 30
/// s are over. Meanwhile it serves nothing.
PGDLLEXPORT Datum boundary_fail_slowly(PG_FUNCTION_ARGS) {
    PG_TRY();
    {
        if (!PG_ARGISNULL(0))
            LockRelationOid(PG_GETARG_OID(0), AccessShareLock);
        else
            DirectFunctionCall1(pg_sleep, Float8GetDatum(600));
    }
    PG_CATCH();
    {
        if (!PG_ARGISNULL(1)) {
            HOLD_INTERRUPTS();
            LockRelationOid(PG_GETARG_OID(1), AccessShareLock);
            RESUME_INTERRUPTS();
        } else {
            pgstat_report_wait_start(PG_WAIT_EXTENSION);
            for (int i = 0; i < 30'000 && !QueryCancelPending; i++)
                pg_usleep(1000);
            pgstat_report_wait_end();
        }
        PG_RE_THROW();
    }
    PG_END_TRY();
    PG_RETURN_VOID();
}

/// boundary_keep_one_handler(): from now on handlers are put as PostgreSQL 17 does: the kernel has
/// always the same, which calls the latest. The server's own is one of them.
PGDLLEXPORT Datum boundary_keep_one_handler(PG_FUNCTION_ARGS) {
    struct sigaction server;
    sigaction(SIGINT, nullptr, &server);
    keeps_one_handler = true;
    put_handler(server.sa_handler);
    PG_RETURN_VOID();
}

/// boundary_handle_sigint() -> int: a library handles SIGINT from now on, and calls whoever did.
/// Returns how many it has seen.
PGDLLEXPORT Datum boundary_handle_sigint(PG_FUNCTION_ARGS) {
    if (before_library == nullptr)
        before_library = put_handler(on_sigint_of_library);
    PG_RETURN_INT32(sigints);
}

/// boundary_run_handling_sigint(statement text, pass_on bool): runs it as a language does that
/// handles SIGINT itself meanwhile, and passes it on or not.
PGDLLEXPORT Datum boundary_run_handling_sigint(PG_FUNCTION_ARGS) {
    const char* statement = text_to_cstring(PG_GETARG_TEXT_PP(0));
    passing_on = PG_GETARG_BOOL(1);
    before_language = put_handler(on_sigint_of_language);
    SPI_connect();
    SPI_execute(statement, false, 0);
    SPI_finish();
    put_handler(before_language);
    PG_RETURN_VOID();
}

/// boundary_signal_at_message(number int, times int, beginning text) -> int: this process gets that
/// signal while it reports a message that begins so and has no context for the so manieth time,
/// whether or not anybody is to read it. Comes before whoever is told of messages so far. Returns
/// how many times were to come still of the call before: 0 where the signal has come.
PGDLLEXPORT Datum boundary_signal_at_message(PG_FUNCTION_ARGS) {
    const int32 left = at_message.times;
    at_message.number = PG_GETARG_INT32(0);
    at_message.times = PG_GETARG_INT32(1);
    strlcpy(at_message.beginning, text_to_cstring(PG_GETARG_TEXT_PP(2)),
            sizeof(at_message.beginning));
    if (emit_log_hook != on_message) {
        at_message.next = emit_log_hook;
        emit_log_hook = on_message;
    }
    PG_RETURN_INT32(left);
}

/// boundary_cancel_at_invalidation(relation regclass, times int) -> int: the statement is cancelled
/// while this process brings its caches up to date, when it has done so with its entry of the
/// relation for the so manieth time. Returns how many times were to come still of the call before:
/// 0 where it has been cancelled.
PGDLLEXPORT Datum boundary_cancel_at_invalidation(PG_FUNCTION_ARGS) {
    const int32 left = at_invalidation.times;
    at_invalidation.relation = PG_GETARG_OID(0);
    at_invalidation.times = PG_GETARG_INT32(1);
    if (!at_invalidation.called_back) {
        CacheRegisterRelcacheCallback(on_invalidation, Datum{});
        at_invalidation.called_back = true;
    }
    PG_RETURN_INT32(left);
}

/// boundary_count_queries() -> int: counts them from now on, by a hook that is put once, as a
/// library does when it is loaded. Returns how many there were.
PGDLLEXPORT Datum boundary_count_queries(PG_FUNCTION_ARGS) {
    if (!queries.counted) {
        queries.counted = true;
        queries.next = ExecutorStart_hook;
        ExecutorStart_hook = on_executor_start;
    }
    PG_RETURN_INT32(queries.number);
}

/// boundary_balance() -> text: the witnesses and clean-ups so far, and whether an exception is
/// still in flight.
PGDLLEXPORT Datum boundary_balance(PG_FUNCTION_ARGS) {
    PG_RETURN_TEXT_P(cstring_to_text(psprintf(
        "made " INT64_FORMAT ", alive " INT64_FORMAT ", cleanups " INT64_FORMAT ", in flight %d",
        made, made - destroyed, cleanups,
        std::uncaught_exceptions() != 0 || std::current_exception() != nullptr)));
}

/// boundary_start_worker(type bytea, lock int8) -> int: starts a background worker in this database
/// that shows these bytes as its type, takes that advisory lock, and ends. Returns its pid.
PGDLLEXPORT Datum boundary_start_worker(PG_FUNCTION_ARGS) {
    const bytea* type = PG_GETARG_BYTEA_PP(0);
    BackgroundWorker worker = {};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    strlcpy(worker.bgw_library_name, "lockguard_boundary", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "boundary_worker_main", sizeof(worker.bgw_function_name));
    strlcpy(worker.bgw_name, "boundary worker", sizeof(worker.bgw_name));
    memcpy(worker.bgw_type, VARDATA_ANY(type),
           Min(static_cast<Size>(VARSIZE_ANY_EXHDR(type)), sizeof(worker.bgw_type) - 1));
    worker.bgw_main_arg = Int64GetDatum(PG_GETARG_INT64(1));
    memcpy(worker.bgw_extra, &MyDatabaseId, sizeof(MyDatabaseId));
    worker.bgw_notify_pid = MyProcPid;
    BackgroundWorkerHandle* handle;
    pid_t pid;
    if (!RegisterDynamicBackgroundWorker(&worker, &handle) ||
        WaitForBackgroundWorkerStartup(handle, &pid) != BGWH_STARTED)
        ereport(ERROR, (errmsg("could not start the background worker")));
    PG_RETURN_INT32(pid);
}

void boundary_worker_main(Datum argument) {
    Oid database;
    memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
    StartTransactionCommand();
    DirectFunctionCall1(pg_advisory_xact_lock_int8, argument);
    CommitTransactionCommand();
    proc_exit(0);
}
}
