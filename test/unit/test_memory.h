// Memory for tests: knows what is still allocated, and can fail on demand.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory_resource>
#include <new>

namespace lockguard::core {

/// Counts what is handed out. Frees at its end what the test's results still occupy.
class TestMemory final : public std::pmr::memory_resource {
  public:
    /// \param successes  allocations that succeed before all others throw std::bad_alloc
    explicit TestMemory(std::size_t successes = static_cast<std::size_t>(-1))
        : successes_(successes) {}
    ~TestMemory() override {
        for (const auto& [block, bytes] : blocks_)
            ::operator delete(block);
    }
    TestMemory(const TestMemory&) = delete;
    TestMemory& operator=(const TestMemory&) = delete;

    std::size_t allocations() const { return allocations_; }
    std::size_t live_blocks() const { return blocks_.size(); }
    std::size_t live_bytes() const { return live_bytes_; }
    std::size_t peak_bytes() const { return peak_bytes_; }
    bool misused() const { return misused_; }

  private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        // PostgreSQL's allocator gives no more than 8.
        if (allocations_ == successes_ || alignment > 8)
            throw std::bad_alloc();
        ++allocations_;
        void* block = ::operator new(bytes);
        blocks_.emplace(block, bytes);
        live_bytes_ += bytes;
        peak_bytes_ = std::max(peak_bytes_, live_bytes_);
        return block;
    }
    void do_deallocate(void* block, std::size_t bytes, std::size_t /*alignment*/) override {
        const auto known = blocks_.find(block);
        if (known == blocks_.end() || known->second != bytes) {
            misused_ = true;
            return;
        }
        live_bytes_ -= bytes;
        blocks_.erase(known);
        ::operator delete(block);
    }
    bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }

    std::size_t successes_;
    std::size_t allocations_ = 0;
    std::size_t live_bytes_ = 0;
    std::size_t peak_bytes_ = 0;
    bool misused_ = false;
    std::map<void*, std::size_t> blocks_;
};

/// Runs call(memory) with memory that fails at the first allocation, then at the second, and so on
/// until it succeeds. Returns how many runs failed; adds a test failure where a run throws anything
/// else than std::bad_alloc or leaves memory behind.
template <class Call>
std::size_t fail_every_allocation(Call call) {
    for (std::size_t successes = 0;; ++successes) {
        TestMemory memory(successes);
        try {
            call(memory);
            EXPECT_EQ(memory.allocations(), successes);
            EXPECT_FALSE(memory.misused());
            return successes;
        } catch (const std::bad_alloc&) {
            EXPECT_EQ(memory.allocations(), successes);
            EXPECT_EQ(memory.live_blocks(), 0U);
            EXPECT_FALSE(memory.misused());
        }
        // Anything else leaves this function and fails the test.
    }
}

} // namespace lockguard::core
