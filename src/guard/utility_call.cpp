#include "guard/utility_call.h"

#include "boundary/bridge.h"
#include "guard/cache_reset.h"

extern "C" {
#include "access/xact.h"
}

namespace lockguard::pg {

void run(const UtilityCall& call) {
    const int nest_level = GetCurrentTransactionNestLevel();
    bool succeeded = false;
    prepare_cache_reset();
    run_guarded(
        [&call, &succeeded] {
            call.next(call.planned, call.query, call.read_only_tree, call.context, call.parameters,
                      call.environment, call.destination, call.completion);
            succeeded = true;
        },
        [nest_level, &succeeded] {
            if (!succeeded)
                reset_caches_at_abort(nest_level);
        });
}

void run_copy(const UtilityCall& call) {
    UtilityCall copy = call;
    copy.read_only_tree = true;
    run(copy);
}

} // namespace lockguard::pg
