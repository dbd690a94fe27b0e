// Pictures of waits as text: diagrams in the languages of Mermaid and Graphviz, and the lock tree.
//
#pragma once

#include "core/wait_picture.h"
#include "core/words/events.h"

#include <cstdint>
#include <memory_resource>
#include <span>
#include <string_view>

namespace lockguard::core {

/// What is written into a node.
struct PictureLabel {
    std::int32_t pid; // 0 for a prepared transaction
    TreeLabel tree;
    std::string_view state; // of a session that does not wait; empty where unknown
    std::string_view word;  // what a fold of such sessions is called: "readers"
};

enum class DiagramFormat : std::uint8_t { mermaid, dot };

/// The format of that name ("mermaid", "dot"). Returns false where there is none.
bool find_diagram_format(std::string_view name, DiagramFormat* format);

/// What many that want that are called: "readers", "writers", or "sessions".
///
/// \param data  the lock is on a relation or a row (WaitKind::data)
std::string_view waiters_word(LockMode wanted, bool data);

/// A diagram whose arrows lead from those that wait to those that they wait for: solid to one that
/// holds, dotted to one that stands ahead in the queue.
///
/// Whatever a label contains, it can neither end its place nor begin anything else:
/// - mermaid: ASCII letters, digits, space and `_ . , ( ) / + -` stay, and so do bytes beyond
///   ASCII; any other character is written as an entity by its number (`#34;`), a control character
///   becomes "?".
/// - dot: quotes and backslashes have a backslash before them, "&" is an entity; control characters
///   become "?".
///
/// \param labels  one for each node
std::string_view diagram_text(const WaitPicture& picture, std::span<const PictureLabel> labels,
                              DiagramFormat format, std::pmr::memory_resource& memory);

/// The picture as a lock tree, as lock_tree_text() draws it; folds are lines of their own:
///
///     4711 "psql"
///     └─ 4712 "migrate" wants AccessExclusiveLock on public.users for 30 s
///        ├─ 4713 "web" wants AccessShareLock on public.users for 29 s
///        └─ ... and 412 more readers
std::string_view picture_tree_text(const WaitPicture& picture, std::span<const PictureLabel> labels,
                                   std::pmr::memory_resource& memory);

} // namespace lockguard::core
