// An array that outlives its maker: the results of the core, which callers read as spans.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>
#include <type_traits>

namespace lockguard::core {

/// Owns a block of `memory` until keep() hands it over to whoever owns `memory`. Until then an
/// exception gives it back, so that a failed call leaves nothing behind. The elements are not
/// initialised where T has a trivial default constructor.
template <class T>
class KeptArray {
    static_assert(std::is_trivially_destructible_v<T>, "nobody runs destructors after keep()");

  public:
    /// \throws std::bad_alloc, also where count * sizeof(T) overflows
    KeptArray(std::size_t count, std::pmr::memory_resource& memory)
        : memory_(&memory), count_(count) {
        if (count == 0)
            return;
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_alloc();
        data_ = static_cast<T*>(memory.allocate(count * sizeof(T), alignof(T)));
        std::uninitialized_default_construct_n(data_, count);
    }
    ~KeptArray() {
        if (data_ != nullptr)
            memory_->deallocate(data_, count_ * sizeof(T), alignof(T));
    }
    KeptArray(const KeptArray&) = delete;
    KeptArray& operator=(const KeptArray&) = delete;

    // An empty array has no element to ask for.
    // NOLINTNEXTLINE(clang-analyzer-core.uninitialized.UndefReturn)
    T& operator[](std::size_t i) { return data_[i]; }
    T* data() { return data_; }

    /// The array; from now on it lives as long as the memory.
    std::span<T> keep() {
        const std::span<T> kept(data_, count_);
        data_ = nullptr;
        return kept;
    }

  private:
    std::pmr::memory_resource* memory_;
    T* data_ = nullptr;
    std::size_t count_;
};

} // namespace lockguard::core
