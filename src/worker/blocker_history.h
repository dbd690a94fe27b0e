// What the worker has said or done about whom, so that the log has one line for each, not one for
// each look; and what it does at all, by the settings. Of the worker's process alone.
#pragma once

#include "boundary/settings.h"
#include "worker/blocker_look.h"
#include "worker/follow_up.h"

namespace lockguard::features {

/// A session in the state for which it was dealt with.
struct Dealt {
    pg::SessionId session;    // as in BlockerIdentity
    TimestampTz state_start;  // 0 in an unused entry
    core::SpareReason spared; // none: it was dealt with, or would have been
    core::BlockerRemedy remedy;

    bool operator==(const Dealt&) const = default;
};

/// What the worker does: as the settings say.
struct Actions {
    pg::BlockerAction idle;
    pg::BlockerActiveAction active;

    bool operator==(const Actions&) const = default;
    bool rehearses(core::BlockerRemedy remedy) const {
        return remedy == core::BlockerRemedy::end ? idle != pg::BlockerAction::terminate
                                                  : active != pg::BlockerActiveAction::cancel;
    }
};

/// By procno; an entry whose session has gone on can match nothing again, and is overwritten in
/// time.
struct History {
    Dealt* dealt;          // proc_count entries
    TimestampTz* held_for; // likewise, by who waits: the wait whose fuse has been reported
    int proc_count;        // of processes and prepared transactions
    Actions actions;       // under which all of them were dealt with
    FollowUps follow_ups;
    bool fuse_reported; // that of terminations per minute, since it last let somebody pass
    pg::LookMemory looks;
};

/// What the settings say now.
Actions actions_by_settings();

/// A history without any entry, in TopMemoryContext.
void begin_history(History* history);

/// Of all but the looks, which know nothing of what is done. From now on it is for these actions.
void forget_all(History* history, Actions actions);

/// \param spared  why; none where it was dealt with
bool was_dealt_with(const History& history, const pg::BlockerIdentity& blocker,
                    core::SpareReason spared);
void remember(History* history, const pg::BlockerIdentity& blocker, core::SpareReason spared);

} // namespace lockguard::features
