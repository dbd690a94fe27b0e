#include "boundary/bridge.h"

namespace lockguard::pg {

std::pmr::memory_resource& ContextMemory::resource() {
    return *this;
}

void* ContextMemory::do_allocate(std::size_t bytes, std::size_t alignment) {
    // palloc promises MAXALIGN and no more; nothing in the core asks for more.
    if (bytes > MaxAllocHugeSize || alignment > MAXIMUM_ALIGNOF)
        throw std::bad_alloc();
    void* block = MemoryContextAllocExtended(context_, bytes, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}

void ContextMemory::do_deallocate(void* block, std::size_t /*bytes*/, std::size_t /*alignment*/) {
    pfree(block);
}

bool ContextMemory::do_is_equal(const memory_resource& other) const noexcept {
    // Blocks know their context, so any ContextMemory can free them.
    return dynamic_cast<const ContextMemory*>(&other) != nullptr;
}

namespace detail {

void note_out_of_memory(CoreFailure* failure) noexcept {
    failure->failed = true;
    failure->out_of_memory = true;
    failure->message[0] = '\0';
}

void note_exception(CoreFailure* failure, const char* what) noexcept {
    failure->failed = true;
    failure->out_of_memory = false;
    strlcpy(failure->message, what, sizeof(failure->message));
}

} // namespace detail

void raise_core_failure(const CoreFailure& failure) {
    if (failure.out_of_memory)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
                        errdetail("pg_lockguard could not allocate its working memory.")));
    ereport(ERROR,
            (errcode(ERRCODE_INTERNAL_ERROR), errmsg("pg_lockguard failed: %s", failure.message),
             errhint("This is a defect in pg_lockguard; please report it.")));
}

} // namespace lockguard::pg
