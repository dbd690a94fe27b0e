// How a tree is drawn, row by row: box-drawing branches (UTF-8) before each number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <string_view>
#include <vector>

namespace lockguard::core {

/// Indentation deeper than that many levels is drawn as a count, so that a chain of thousands
/// neither fills the screen nor takes quadratic memory: every kDrawnDepth levels the drawing starts
/// again at the left, behind the number of levels left out. With 20, the row at depth 20 is
/// indented 19 levels and has its branch, the one at depth 21 reads "…20 └─ 4711", the one at depth
/// 22 "…20    └─ 4712".
inline constexpr std::uint32_t kDrawnDepth = 20;

/// Draws rows, one after the other from the top.
class Pencil {
  public:
    /// \param deepest  row to come
    /// \throws std::bad_alloc
    Pencil(std::uint32_t deepest, std::pmr::memory_resource& memory)
        : more_(std::size_t{deepest} + 1, 0, &memory) {}

    /// No row at that depth takes more.
    static std::size_t max_bytes(std::uint32_t depth);

    /// Draws to `start`, where there is room for max_bytes(depth). Returns what was drawn.
    ///
    /// \param more_siblings  of this row stand further down, under the same parent
    std::string_view draw(std::int32_t pid, std::uint32_t depth, bool more_siblings, char* start);

    /// The same without the number.
    std::string_view draw_branch(std::uint32_t depth, bool more_siblings, char* start);

  private:
    void put(std::string_view text);
    template <class Number>
    void put_number(Number number);

    char* end_ = nullptr;
    /// For each level, whether the row there that the present one hangs under has siblings below.
    std::pmr::vector<char> more_;
};

/// Redraws in ASCII, in place, for databases whose encoding lacks the box-drawing characters. Never
/// longer than before; returns the new length. Other text in it stays as it is.
std::size_t redraw_in_ascii(std::span<char> drawing) noexcept;

} // namespace lockguard::core
