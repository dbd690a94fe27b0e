// Arrays of plain data in memory contexts. Nobody frees them one by one: the end of the context
// does, also after an error.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "boundary/compat.h"

namespace lockguard::pg {

namespace detail {
template <class T>
T* allocate_array(std::size_t count, int flags) {
    static_assert(std::is_trivially_destructible_v<T>, "nobody runs destructors");
    return static_cast<T*>(palloc_extended(mul_size(sizeof(T), count), MCXT_ALLOC_HUGE | flags));
}
} // namespace detail

/// Room for so many elements in the current memory context, not initialised. Also for none: the
/// result is never null. Ereports out of memory.
template <class T>
T* new_array(std::size_t count) {
    return detail::allocate_array<T>(count, 0);
}

/// The same, all zero.
template <class T>
T* new_zeroed_array(std::size_t count) {
    return detail::allocate_array<T>(count, MCXT_ALLOC_ZERO);
}

/// One element in the current memory context, not initialised.
template <class T>
T* new_object() {
    return new_array<T>(1);
}

/// An array that grows, in the memory context in which its first element was added. Plain data: it
/// may be copied where only one copy is added to, and needs no destructor.
template <class T>
class GrowingArray {
    static_assert(std::is_trivially_copyable_v<T>, "repalloc() moves the bytes");

  public:
    /// Ereports out of memory, and leaves the array as it was.
    void add(const T& element) {
        if (size_ == capacity_)
            grow();
        elements_[size_++] = element;
    }

    /// Keeps the first `size` of them, which is no more than there are.
    void truncate(std::size_t size) {
        Assert(size <= size_);
        size_ = size;
    }

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    T& operator[](std::size_t i) { return elements_[i]; }
    const T& operator[](std::size_t i) const { return elements_[i]; }
    T* begin() { return elements_; }
    T* end() { return elements_ + size_; }
    const T* begin() const { return elements_; }
    const T* end() const { return elements_ + size_; }

    /// Valid until the next add().
    std::span<T> span() { return {elements_, size_}; }
    std::span<const T> span() const { return {elements_, size_}; }

  private:
    void grow() {
        const std::size_t wanted = capacity_ == 0 ? 16 : 2 * capacity_;
        if (elements_ == nullptr)
            elements_ = new_array<T>(wanted);
        else
            elements_ = static_cast<T*>(repalloc_huge(elements_, mul_size(sizeof(T), wanted)));
        capacity_ = wanted;
    }

    T* elements_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

} // namespace lockguard::pg
