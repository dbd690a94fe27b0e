#include "core/words/pictures.h"

#include "core/tree_drawing.h"
#include "core/words/culprits.h"
#include "core/words/key_values.h"
#include "core/words/text.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace lockguard::core {
namespace {

using Text = std::pmr::string;

bool is_plain_in_mermaid(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c >= 0x80 ||
           std::string_view(" _.,()/+-").find(static_cast<char>(c)) != std::string::npos;
}

/// Text inside the double quotes of either language.
void append_escaped(Text& text, std::string_view value, DiagramFormat format) {
    for (const char c : value) {
        const auto byte = static_cast<unsigned char>(c);
        if (is_control(c)) {
            text += '?';
        } else if (format == DiagramFormat::mermaid) {
            if (is_plain_in_mermaid(byte)) {
                text += c;
            } else {
                text += '#';
                append_number(text, byte);
                text += ';';
            }
        } else if (c == '&') {
            text += "&amp;";
        } else {
            if (c == '"' || c == '\\')
                text += '\\';
            text += c;
        }
    }
}

std::string_view line_break(DiagramFormat format) {
    return format == DiagramFormat::mermaid ? "<br>" : "\\n";
}

void append_fold(Text& text, const PictureNode& node, std::string_view word) {
    text += "and ";
    append_number(text, node.folded);
    text += " more ";
    if (node.mixed || word.empty())
        text += node.folded == 1 ? "session" : "sessions";
    else
        text += word;
}

void append_node_label(Text& text, const PictureNode& node, const PictureLabel& label,
                       DiagramFormat format) {
    if (node.folded > 0) {
        append_fold(text, node, label.word);
        return;
    }
    const auto put = [&](std::string_view value) { append_escaped(text, value, format); };
    const auto next_line = [&] { text += line_break(format); };
    const TreeLabel& tree = label.tree;
    if (label.pid == 0) {
        text += "prepared transaction";
        if (!tree.gid.empty()) {
            next_line();
            put(tree.gid);
        }
    } else {
        text += "PID ";
        append_number(text, label.pid);
        if (!tree.application.empty()) {
            text += ' ';
            put(tree.application);
        }
    }
    if (!tree.wants.empty()) {
        next_line();
        text += "wants ";
        put(tree.wants);
        if (!tree.object.empty()) {
            next_line();
            text += "on ";
            put(tree.object);
        }
        if (tree.waited >= 0) {
            next_line();
            text += "for ";
            append_duration(text, tree.waited);
        }
    } else if (!label.state.empty()) {
        next_line();
        put(label.state);
    }
}

void append_id(Text& text, NodeIndex node) {
    text += 's';
    append_number(text, node);
}

/// "holds AccessShareLock", "ahead, wants AccessExclusiveLock".
void append_edge_label(Text& text, LockMode mode, bool holds) {
    constexpr std::array<std::string_view, kMaxLockMode> kModes = {
        "",
        "AccessShareLock",
        "RowShareLock",
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    };
    if (!is_real_mode(mode))
        return;
    text += holds ? "holds " : "ahead, wants ";
    text += kModes[mode];
}

/// One language: how the parts of a diagram are written.
class Diagram {
  public:
    Diagram(DiagramFormat format, Text& text) : format_(format), text_(text) {}

    void begin() {
        text_ += is_mermaid() ? "flowchart BT\n"
                              : "digraph lock_graph {\n"
                                "    rankdir=BT;\n"
                                "    node [shape=box, style=rounded, fontname=\"sans-serif\", "
                                "fontsize=10];\n"
                                "    edge [fontname=\"sans-serif\", fontsize=9];\n";
    }

    void empty_node() {
        text_ += is_mermaid() ? "    s0[\"nobody waits\"]\n" : "    s0 [label=\"nobody waits\"];\n";
    }

    void node(NodeIndex index, const PictureNode& node, const PictureLabel& label) {
        text_ += "    ";
        append_id(text_, index);
        text_ += is_mermaid() ? "[\"" : " [label=\"";
        append_node_label(text_, node, label, format_);
        text_ += '"';
        const bool root = node.above == kNoNode && node.folded == 0;
        if (is_mermaid()) {
            text_ += ']';
            if (node.deadlock)
                text_ += ":::deadlock";
            else if (root)
                text_ += ":::rootcause";
        } else {
            if (node.deadlock)
                text_ += ", color=red, penwidth=2";
            else if (root)
                text_ += ", style=\"rounded,bold\"";
            text_ += "];";
        }
        text_ += '\n';
    }

    void edge(NodeIndex waiter, NodeIndex blocker, LockMode mode, bool holds) {
        text_ += "    ";
        append_id(text_, waiter);
        if (is_mermaid()) {
            text_ += holds ? " -->" : " -.->";
            if (is_real_mode(mode)) {
                text_ += "|\"";
                append_edge_label(text_, mode, holds);
                text_ += "\"|";
            }
            text_ += ' ';
            append_id(text_, blocker);
        } else {
            text_ += " -> ";
            append_id(text_, blocker);
            text_ += " [label=\"";
            append_edge_label(text_, mode, holds);
            text_ += holds ? "\"];" : "\", style=dotted];";
        }
        text_ += '\n';
    }

    void end(const WaitPicture& picture) {
        if (!is_mermaid()) {
            text_ += "}\n";
            return;
        }
        // Only those that are used.
        const auto any = [&picture](auto predicate) {
            return std::any_of(picture.nodes.begin(), picture.nodes.end(), predicate);
        };
        if (any([](const PictureNode& node) {
                return !node.deadlock && node.above == kNoNode && node.folded == 0;
            }))
            text_ += "    classDef rootcause stroke-width:3px\n";
        if (any([](const PictureNode& node) { return node.deadlock; }))
            text_ += "    classDef deadlock stroke:red,stroke-width:3px\n";
    }

  private:
    bool is_mermaid() const { return format_ == DiagramFormat::mermaid; }

    DiagramFormat format_;
    Text& text_;
};

} // namespace

bool find_diagram_format(std::string_view name, DiagramFormat* format) {
    if (name == "mermaid")
        *format = DiagramFormat::mermaid;
    else if (name == "dot")
        *format = DiagramFormat::dot;
    else
        return false;
    return true;
}

std::string_view waiters_word(LockMode wanted, bool data) {
    if (!data || wanted == kNoLockMode || wanted == kAccessExclusive)
        return "sessions";
    // AccessShareLock and RowShareLock; RowExclusiveLock, and what a transaction or a tuple is
    // waited for in.
    return wanted <= 2 ? "readers" : "writers";
}

std::string_view diagram_text(const WaitPicture& picture, std::span<const PictureLabel> labels,
                              DiagramFormat format, std::pmr::memory_resource& memory) {
    Text text(&memory);
    Diagram diagram(format, text);
    diagram.begin();
    if (picture.nodes.empty())
        diagram.empty_node();
    for (NodeIndex i = 0; i < picture.nodes.size(); ++i)
        diagram.node(i, picture.nodes[i], labels[i]);
    for (NodeIndex i = 0; i < picture.nodes.size(); ++i) {
        const PictureNode& node = picture.nodes[i];
        // Those of a mixed fold wait for different ones.
        if (node.above != kNoNode)
            diagram.edge(i, node.above, node.mixed ? kNoLockMode : node.mode,
                         node.holds || node.mixed);
    }
    for (const PictureEdge& edge : picture.edges)
        diagram.edge(edge.waiter, edge.blocker, edge.mode, edge.holds);
    diagram.end(picture);
    return keep_text(text, memory);
}

std::string_view picture_tree_text(const WaitPicture& picture, std::span<const PictureLabel> labels,
                                   std::pmr::memory_resource& memory) {
    const std::size_t count = picture.nodes.size();
    std::pmr::vector<std::uint32_t> depths(count, 0, &memory);
    std::pmr::vector<NodeIndex> last_below(count, kNoNode, &memory);
    std::uint32_t deepest = 0;
    for (NodeIndex i = 0; i < count; ++i) {
        const NodeIndex above = picture.nodes[i].above;
        if (above >= i)
            continue;
        depths[i] = depths[above] + 1;
        deepest = std::max(deepest, depths[i]);
        last_below[above] = i;
    }

    Text text(&memory);
    Pencil pencil(deepest, memory);
    std::pmr::vector<char> place(
        Pencil::max_bytes(deepest / kDrawnDepth * kDrawnDepth + kDrawnDepth), '\0', &memory);
    for (NodeIndex i = 0; i < count; ++i) {
        const PictureNode& node = picture.nodes[i];
        if (i > 0)
            text += '\n';
        const bool more = depths[i] > 0 && last_below[node.above] != i;
        text += pencil.draw_branch(depths[i], more, place.data());
        if (node.folded > 0) {
            text += "... ";
            append_fold(text, node, labels[i].word);
        } else {
            append_number(text, labels[i].pid);
            append_tree_label(text, labels[i].tree);
        }
    }
    return keep_text(text, memory);
}

} // namespace lockguard::core
