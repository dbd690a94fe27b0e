#include "worker/named_event.h"

#include "boundary/settings.h"

extern "C" {
#include "access/xact.h"
#include "pgstat.h"
}

namespace lockguard::pg {

void record_with_names(Event* event) {
    Assert(!IsTransactionState());
    EventNames names = {};
    if (settings.logged_events() != LoggedEvents::none) {
        MemoryContext memory = CurrentMemoryContext;
        SetCurrentStatementStartTimestamp();
        StartTransactionCommand();
        MemoryContextSwitchTo(memory);
        names = names_for_log(*event);
        CommitTransactionCommand();
        MemoryContextSwitchTo(memory);
        pgstat_report_stat(true);
    }
    record_event(event, names);
}

} // namespace lockguard::pg
