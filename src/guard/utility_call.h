// A utility statement on its way through the chain of ProcessUtility hooks.
#pragma once

#include "boundary/compat.h"
#include "guard/cache_reset.h"

extern "C" {
#include "tcop/utility.h"
}

namespace lockguard::pg {

/// What a ProcessUtility hook is given, and the next one in the chain.
struct UtilityCall {
    PlannedStmt* planned;
    const char* query;
    bool read_only_tree;
    ProcessUtilityContext context;
    ParamListInfo parameters;
    QueryEnvironment* environment;
    DestReceiver* destination;
    QueryCompletion* completion;
    ProcessUtility_hook_type next;
};

inline void run(const UtilityCall& call) {
    CacheReset reset;
    reset.enter();
    call.next(call.planned, call.query, call.read_only_tree, call.context, call.parameters,
              call.environment, call.destination, call.completion);
    reset.leave();
}

/// Leaves the statement's tree as it is, so that it can be run again.
inline void run_copy(UtilityCall call) {
    call.read_only_tree = true;
    run(call);
}

} // namespace lockguard::pg
