// What the fuzz targets share: numbers and texts from the bytes that the fuzzer makes up, memory as
// the server gives it, and a way to fail.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory_resource>
#include <new>
#include <string_view>
#include <type_traits>

namespace lockguard::fuzz {

/// Ends the process, as a sanitizer would, so that the fuzzer keeps the input.
inline void require(bool holds, const char* what) {
    if (holds)
        return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

/// Gives the bytes out from the front; zeros once there are no more.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    bool empty() const { return size_ == 0; }

    template <class Number>
    Number number() {
        static_assert(std::is_integral_v<Number>);
        Number value = 0;
        const std::size_t taken = std::min(sizeof(value), size_);
        std::memcpy(&value, data_, taken);
        skip(taken);
        return value;
    }
    /// Below `bound` as a rule; one byte in 32 is any number, as a damaged table might have it.
    std::uint32_t index(std::uint32_t bound) {
        const auto byte = number<std::uint8_t>();
        if (byte >= 248)
            return number<std::uint32_t>();
        return bound == 0 ? 0 : byte % bound;
    }
    std::uint32_t count(std::uint32_t most) { return number<std::uint8_t>() % (most + 1); }
    bool flag() { return (number<std::uint8_t>() & 1) != 0; }
    /// Up to 63 bytes of whatever is there.
    std::string_view text() {
        const std::size_t length = std::min<std::size_t>(number<std::uint8_t>() % 64, size_);
        const std::string_view result(reinterpret_cast<const char*>(data_), length);
        skip(length);
        return result;
    }
    /// All that is left.
    std::string_view rest() {
        const std::string_view result(reinterpret_cast<const char*>(data_), size_);
        skip(size_);
        return result;
    }

  private:
    void skip(std::size_t bytes) {
        data_ += bytes;
        size_ -= bytes;
    }

    const std::uint8_t* data_;
    std::size_t size_;
};

/// Fails from an allocation on that the input names, as a server that has no more does; each block
/// is one of its own, for the sanitizers. Frees what the results still occupy.
class Memory final : public std::pmr::memory_resource {
  public:
    explicit Memory(std::size_t successes) : successes_(successes) {}
    ~Memory() override {
        while (newest_ != nullptr) {
            Block* block = newest_;
            newest_ = block->older;
            std::free(block);
        }
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

  private:
    struct alignas(16) Block {
        Block* older;
        Block* newer;
    };
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (successes_ == 0 || alignment > alignof(Block) || bytes > (std::size_t{64} << 20))
            throw std::bad_alloc();
        --successes_;
        auto* block = static_cast<Block*>(std::malloc(sizeof(Block) + bytes));
        if (block == nullptr)
            throw std::bad_alloc();
        block->older = newest_;
        block->newer = nullptr;
        if (newest_ != nullptr)
            newest_->newer = block;
        newest_ = block;
        return block + 1;
    }
    void do_deallocate(void* memory, std::size_t /*bytes*/, std::size_t /*alignment*/) override {
        Block* block = static_cast<Block*>(memory) - 1;
        (block->newer != nullptr ? block->newer->older : newest_) = block->older;
        if (block->older != nullptr)
            block->older->newer = block->newer;
        std::free(block);
    }
    bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }

    std::size_t successes_;
    Block* newest_ = nullptr;
};

/// Memory that fails early in one of 16 inputs.
inline std::size_t successes(Input& input) {
    const auto byte = input.number<std::uint8_t>();
    return byte < 16 ? input.number<std::uint8_t>() : static_cast<std::size_t>(-1);
}

/// What a session waits for: that is no name that somebody has chosen.
inline std::string_view mode_name(Input& input) {
    return input.flag() ? "AccessExclusiveLock" : "";
}

inline bool has_control(std::string_view text, bool lines) {
    return std::any_of(text.begin(), text.end(), [lines](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return (byte < 0x20 && !(lines && c == '\n')) || byte == 0x7f;
    });
}

} // namespace lockguard::fuzz
