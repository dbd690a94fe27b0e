#include "worker/blocker_history.h"

#include "boundary/memory.h"

namespace lockguard::features {

namespace {

Dealt dealt_with(const pg::BlockerIdentity& blocker, core::SpareReason spared) {
    return {blocker.session, blocker.state_start, spared,
            blocker.active ? core::BlockerRemedy::cancel : core::BlockerRemedy::end};
}

} // namespace

Actions actions_by_settings() {
    return {pg::settings.action(), pg::settings.active_action()};
}

void begin_history(History* history) {
    memset(static_cast<void*>(history), 0, sizeof(*history));
    history->proc_count = pg::compat::count_of_procs();
    auto count = static_cast<std::size_t>(history->proc_count);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    history->dealt = pg::new_zeroed_array<Dealt>(count);
    history->looks.stalls = pg::new_zeroed_array<pg::Stall>(count);
    history->held_for = pg::new_zeroed_array<TimestampTz>(count);
    MemoryContextSwitchTo(caller);
    forget_all(history, actions_by_settings());
}

void forget_all(History* history, Actions actions) {
    memset(static_cast<void*>(history->dealt), 0, sizeof(Dealt) * history->proc_count);
    memset(history->held_for, 0, sizeof(TimestampTz) * history->proc_count);
    forget_follow_ups(&history->follow_ups);
    history->fuse_reported = false;
    history->actions = actions;
}

bool was_dealt_with(const History& history, const pg::BlockerIdentity& blocker,
                    core::SpareReason spared) {
    return history.dealt[blocker.session.procno] == dealt_with(blocker, spared);
}

void remember(History* history, const pg::BlockerIdentity& blocker, core::SpareReason spared) {
    history->dealt[blocker.session.procno] = dealt_with(blocker, spared);
}

} // namespace lockguard::features
