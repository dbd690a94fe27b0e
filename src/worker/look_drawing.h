// The lock tree of a look (worker/blocker_look), drawn for its events.
#pragma once

#include "worker/blocker_look.h"

namespace lockguard::pg {

/// Puts the tree that the victim is in into the event. Only the rows that fit need their labels.
void set_tree(BlockerLook* look, core::SessionIndex victim, Event* event);

} // namespace lockguard::pg
