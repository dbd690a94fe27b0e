#include "guard/wait_decision.h"

#include "core/words/waits.h"

#include "boundary/bridge.h"
#include "boundary/valid_text.h"
#include "sessions/object_names.h"

namespace lockguard::pg {

const char* record_decision(const DecisionRequest& request, const char* outcome,
                            const WaitAccount& account) {
    core::Decider decider = {};
    decider.pid = request.pid;
    decider.application = valid_copy(request.application);
    decider.decision = decision_name(request.decision);
    NameLookup lookup = open_name_lookup();
    const char* role = role_name(request.role, lookup);
    close_name_lookup(lookup);
    if (role != nullptr)
        decider.role = role;
    const char* text = call_core(CurrentMemoryContext, [&decider](auto& memory) {
                           return core::decision_text(decider, memory);
                       }).data();
    account.record(EventKind::ddl_decided,
                   outcome == nullptr ? text : psprintf("%s; nobody was ended: %s", text, outcome));
    return text;
}

} // namespace lockguard::pg
