// How pure C++ is called from PostgreSQL, and PostgreSQL from us, without the two ways of failing
// ever meeting. PostgreSQL's ereport(ERROR) longjmps over C++ frames without running destructors;
// a C++ exception that left through PostgreSQL's C frames would end the server. Hence:
//
// - call_core() is the only way into code that may throw. What it calls must not call PostgreSQL.
//   It catches everything, leaves the handler, and only then ereports: std::bad_alloc becomes
//   53200 (out_of_memory), any other exception XX000 (internal_error).
// - Nothing with a destructor is alive outside call_core(): its result must be trivially
//   destructible, and memory comes from a memory context, so that a longjmp leaks nothing.
// - run_guarded() and run_amending() run a clean-up, or add to an error, and pass the error on.
//   run_in_subtransaction() catches an error; so does run_dropping_errors(), where the transaction
//   is lost already. There is no other PG_TRY.
#pragma once

#include <cstddef>
#include <exception>
#include <memory_resource>
#include <new>
#include <type_traits>

#include "boundary/compat.h"

namespace lockguard::pg {

/// Memory of a MemoryContext for C++ containers. Where there is none left it throws
/// std::bad_alloc: it never ereports, so no longjmp crosses the container's frames.
class ContextMemory final : public std::pmr::memory_resource {
  public:
    explicit ContextMemory(MemoryContext context) : context_(context) {}

    /// Itself. Not inline: else gcc 16 guesses that it were one of the standard library's, and
    /// warns of what that would do here.
    std::pmr::memory_resource& resource();

  private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t bytes, std::size_t alignment) override;
    bool do_is_equal(const memory_resource& other) const noexcept override;

    MemoryContext context_;
};

/// A C++ failure, as plain data that survives the exception.
struct CoreFailure {
    bool failed;
    bool out_of_memory;
    char message[256]; // what() of the exception, cut
};

namespace detail {
void note_out_of_memory(CoreFailure* failure) noexcept;
void note_exception(CoreFailure* failure, const char* what) noexcept;

/// Keeps the locals of what is called out of the frame that a longjmp returns to: there they might
/// live in registers that the jump sets back.
template <class Function>
pg_noinline void call_in_own_frame(Function& function) {
    function();
}
} // namespace detail

/// Raises the failure as an ERROR. Call it with no C++ object alive and no exception in flight.
[[noreturn]] void raise_core_failure(const CoreFailure& failure);

/// Runs core(memory), where memory allocates in `context`, and reports a failure instead of raising
/// it: for callers that must go on, such as an error context callback. On failure the result is
/// value-initialised.
template <class Core>
auto try_core(MemoryContext context, Core&& core, CoreFailure* failure) noexcept {
    using Result = std::invoke_result_t<Core&, std::pmr::memory_resource&>;
    static_assert(std::is_trivially_destructible_v<Result>,
                  "what leaves the core must survive a longjmp");
    failure->failed = false;
    try {
        ContextMemory memory(context);
        return core(memory.resource());
    } catch (const std::bad_alloc&) {
        detail::note_out_of_memory(failure);
    } catch (const std::exception& error) {
        detail::note_exception(failure, error.what());
    } catch (...) {
        detail::note_exception(failure, "unknown C++ exception");
    }
    return Result{};
}

/// Runs core(memory), where memory allocates in `context`, and returns its result; whatever it
/// throws becomes an ERROR of this session: 53200 for std::bad_alloc, else XX000.
template <class Core>
auto call_core(MemoryContext context, Core&& core) {
    CoreFailure failure;
    auto result = try_core(context, core, &failure);
    if (unlikely(failure.failed))
        raise_core_failure(failure);
    return result;
}

/// Runs body() and then cleanup(), also when body() ereports; the error goes on unchanged. Neither
/// may have anything with a destructor alive while it calls PostgreSQL, and cleanup must not
/// ereport.
template <class Body, class Cleanup>
void run_guarded(Body&& body, Cleanup&& cleanup) {
    static_assert(std::is_trivially_destructible_v<std::remove_reference_t<Body>> &&
                      std::is_trivially_destructible_v<std::remove_reference_t<Cleanup>>,
                  "a longjmp skips destructors");
    // Not PG_FINALLY: its flag would have to survive the longjmp, and the compiler cannot tell that
    // it does.
    PG_TRY();
    detail::call_in_own_frame(body);
    PG_CATCH();
    {
        detail::call_in_own_frame(cleanup);
        PG_RE_THROW();
    }
    PG_END_TRY();
    detail::call_in_own_frame(cleanup);
}

/// Runs body() where the transaction is lost already, and drops what it raises.
template <class Body>
void run_dropping_errors(Body&& body) {
    const MemoryContext context = CurrentMemoryContext;
    PG_TRY();
    body();
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        FlushErrorState();
    }
    PG_END_TRY();
}

/// As run_guarded(), and an error with this SQLSTATE is first shown to amend(ErrorData*), which may
/// add to it, with strings in the current memory context (that of the call). Where amend itself
/// ereports, that is dropped and the error goes on as amend has left it. So amend, unlike an error
/// context callback, can neither hide the error nor hang: it may be cancelled. It needs no
/// subtransaction, because the transaction is lost in any case. It runs under the resource owner of
/// the present transaction, which need not be that of the call: body() may end the one and begin
/// another. The memory context of the call must outlive that.
template <class Body, class Amend, class Cleanup>
void run_amending(int sqlstate, Body&& body, Amend&& amend, Cleanup&& cleanup) {
    static_assert(std::is_trivially_destructible_v<std::remove_reference_t<Amend>>,
                  "a longjmp skips destructors");
    const MemoryContext context = CurrentMemoryContext;
    auto amend_error = [&] {
        PG_TRY();
        body();
        PG_CATCH();
        {
            // While a transaction begins or ends, nothing can be looked up.
            if (geterrcode() != sqlstate || !IsTransactionState())
                PG_RE_THROW();
            MemoryContextSwitchTo(context);
            CurrentResourceOwner = CurTransactionResourceOwner;
            ErrorData* error = CopyErrorData();
            FlushErrorState();
            run_dropping_errors([&] { amend(error); });
            ReThrowError(error);
        }
        PG_END_TRY();
    };
    run_guarded(amend_error, cleanup);
}

/// Runs body() with interrupts held off; they are served at the next check after it. Begin and end
/// of a subtransaction need that: between its abort and its clean-up PostgreSQL tells of it with
/// DEBUG5, and checks after each message to a client who wants it. An error from there, or from
/// where it has only begun, would leave a subtransaction that nobody ends.
template <class Body>
void run_uninterrupted(Body&& body) {
    HOLD_INTERRUPTS();
    body();
    RESUME_INTERRUPTS();
}

/// How a subtransaction ended.
struct SubtransactionEnd {
    bool kept;        // else it was rolled back
    ErrorData* error; // why, where that was an error; in the memory context of the call
};

/// Runs body() in an internal subtransaction, and keeps its effects if it returns true. Else, and
/// after an error, the subtransaction is rolled back. An error for which expected(const ErrorData*)
/// is true is returned; any other goes on, whole, with the subtransaction gone: an outer handler,
/// such as that of a PL/pgSQL block, must find its own on top.
///
/// Runs in the memory context and under the resource owner of the call, and leaves both as they
/// were. Not in parallel mode. expected() must not ereport.
template <class Body, class Expected>
SubtransactionEnd run_in_subtransaction(Body&& body, Expected&& expected) {
    static_assert(std::is_trivially_destructible_v<std::remove_reference_t<Body>> &&
                      std::is_trivially_destructible_v<std::decay_t<Expected>>,
                  "a longjmp skips destructors");
    Assert(IsTransactionState() && !IsInParallelMode());
    const MemoryContext context = CurrentMemoryContext;
    const ResourceOwner owner = CurrentResourceOwner;
    SubtransactionEnd end = {false, nullptr};
    run_uninterrupted([] { BeginInternalSubTransaction(nullptr); });
    MemoryContextSwitchTo(context);
    auto run_to_end = [&] {
        end.kept = body();
        if (end.kept)
            ReleaseCurrentSubTransaction();
        else
            run_uninterrupted(RollbackAndReleaseCurrentSubTransaction);
    };
    PG_TRY();
    detail::call_in_own_frame(run_to_end);
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData* error = CopyErrorData();
        FlushErrorState();
        run_uninterrupted(RollbackAndReleaseCurrentSubTransaction);
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
        if (!expected(static_cast<const ErrorData*>(error)))
            ReThrowError(error);
        end = {false, error};
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    return end;
}

} // namespace lockguard::pg
