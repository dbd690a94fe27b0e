// A utility statement on its way through the chain of ProcessUtility hooks.
#pragma once

#include "boundary/compat.h"

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

/// Runs it. Nothing of it is left in the caches where it ends by an error (guard/cache_reset).
void run(const UtilityCall& call);

/// The same, and leaves the statement's tree as it is, so that it can be run again.
void run_copy(const UtilityCall& call);

} // namespace lockguard::pg
