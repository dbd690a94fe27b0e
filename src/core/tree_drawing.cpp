#include "core/tree_drawing.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace lockguard::core {
namespace {

constexpr std::string_view kBranch = "├─ ";
constexpr std::string_view kLastBranch = "└─ ";
constexpr std::string_view kLine = "│  ";
constexpr std::string_view kGap = "   ";
constexpr std::string_view kElision = "…";

constexpr std::size_t kNumberBytes = 11; // "-2147483648", "4294967295"
static_assert(kGap.size() <= kLine.size() && kLastBranch.size() <= kBranch.size());

} // namespace

inline void Pencil::put(std::string_view text) {
    end_ += text.copy(end_, text.size());
}

template <class Number>
void Pencil::put_number(Number number) {
    end_ = std::to_chars(end_, end_ + kNumberBytes, number).ptr;
}

std::size_t Pencil::max_bytes(std::uint32_t depth) {
    if (depth == 0)
        return kNumberBytes;
    return kElision.size() + kNumberBytes + 1 + (depth - 1) % kDrawnDepth * kLine.size() +
           kBranch.size() + kNumberBytes;
}

std::string_view Pencil::draw_branch(std::uint32_t depth, bool more_siblings, char* start) {
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

std::string_view Pencil::draw(std::int32_t pid, std::uint32_t depth, bool more_siblings,
                              char* start) {
    draw_branch(depth, more_siblings, start);
    put_number(pid);
    return {start, static_cast<std::size_t>(end_ - start)};
}

std::size_t redraw_in_ascii(std::span<char> drawing) noexcept {
    struct Stroke {
        std::string_view drawn;
        std::string_view ascii;
    };
    constexpr std::array kStrokes = {Stroke{kBranch, "|- "}, Stroke{kLastBranch, "`- "},
                                     Stroke{kLine, "|  "}, Stroke{kElision, "..."}};
    const std::string_view text(drawing.data(), drawing.size());
    std::size_t read = 0;
    std::size_t written = 0;
    while (read < text.size()) {
        const auto* stroke = std::find_if(kStrokes.begin(), kStrokes.end(), [&](const Stroke& s) {
            return text.substr(read).starts_with(s.drawn);
        });
        if (stroke == kStrokes.end()) {
            drawing[written++] = drawing[read++];
            continue;
        }
        read += stroke->drawn.size();
        std::copy(stroke->ascii.begin(), stroke->ascii.end(), drawing.begin() + written);
        written += stroke->ascii.size();
    }
    return written;
}

} // namespace lockguard::core
