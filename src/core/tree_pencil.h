// The branches of a lock tree, as core/lock_forest describes them.
#pragma once

#include "core/lock_forest.h"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <string_view>
#include <vector>

namespace lockguard::core {

inline constexpr std::string_view kBranch = "├─ ";
inline constexpr std::string_view kLastBranch = "└─ ";
inline constexpr std::string_view kLine = "│  ";
inline constexpr std::string_view kGap = "   ";
inline constexpr std::string_view kElision = "…";

/// Draws rows, one after the other from the top.
class Pencil {
  public:
    Pencil(std::uint32_t deepest, std::pmr::memory_resource& memory)
        : more_(std::size_t{deepest} + 1, 0, &memory) {}

    /// No row at that depth takes more.
    static std::size_t max_bytes(std::uint32_t depth) {
        if (depth == 0)
            return kNumberBytes;
        return kElision.size() + kNumberBytes + 1 + (depth - 1) % kDrawnDepth * kLine.size() +
               kBranch.size() + kNumberBytes;
    }

    /// Draws to `start`, where there is room for max_bytes(depth). Returns what was drawn.
    std::string_view draw(std::int32_t pid, std::uint32_t depth, bool more_siblings, char* start) {
        draw_branch(depth, more_siblings, start);
        put_number(pid);
        return {start, static_cast<std::size_t>(end_ - start)};
    }

    /// The same without the number.
    std::string_view draw_branch(std::uint32_t depth, bool more_siblings, char* start) {
        end_ = start;
        more_[depth] = more_siblings ? 1 : 0;
        if (depth > 0) {
            const std::uint32_t elided = (depth - 1) / kDrawnDepth * kDrawnDepth;
            if (elided > 0) {
                put(kElision);
                put_number(elided);
                put(" ");
            }
            // No "?:", so that each put() knows how many bytes it copies.
            for (std::uint32_t level = elided + 1; level < depth; ++level) {
                if (more_[level] != 0)
                    put(kLine);
                else
                    put(kGap);
            }
            put(more_siblings ? kBranch : kLastBranch);
        }
        return {start, static_cast<std::size_t>(end_ - start)};
    }

  private:
    static constexpr std::size_t kNumberBytes = 11; // "-2147483648", "4294967295"
    static_assert(kGap.size() <= kLine.size() && kLastBranch.size() <= kBranch.size());

    void put(std::string_view text) {
        std::memcpy(end_, text.data(), text.size());
        end_ += text.size();
    }

    template <class Number>
    void put_number(Number number) {
        end_ = std::to_chars(end_, end_ + kNumberBytes, number).ptr;
    }

    char* end_ = nullptr;
    /// For each level, whether the row there that the present one hangs under has siblings below.
    std::pmr::vector<char> more_;
};

} // namespace lockguard::core
