#include "preview/event_trigger_state.h"

#include "boundary/bridge.h"

extern "C" {
#include "commands/event_trigger.h"

// As fmgr has it: a function of SQL.
extern Datum pg_event_trigger_ddl_commands(PG_FUNCTION_ARGS);
}

namespace lockguard::pg {

/// The server does not tell. But it begins to collect only where there are event triggers; and
/// pg_event_trigger_ddl_commands() raises one error where nothing is collected, and another one
/// where it is called without a place for its rows.
bool is_inside_ddl_with_event_triggers() {
    if (!EventTriggerBeginCompleteQuery())
        return false;
    EventTriggerEndCompleteQuery();
    SubtransactionEnd end = run_in_subtransaction(
        [] {
            LOCAL_FCINFO(fcinfo, 0);
            InitFunctionCallInfoData(*fcinfo, nullptr, 0, InvalidOid, nullptr, nullptr);
            pg_event_trigger_ddl_commands(fcinfo);
            return false;
        },
        [](const ErrorData* error) {
            return error->sqlerrcode == ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED ||
                   error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED;
        });
    return end.error == nullptr ||
           end.error->sqlerrcode != ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED;
}

} // namespace lockguard::pg
