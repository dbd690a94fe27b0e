#include "guard/utility_call.h"

#include "boundary/bridge.h"
#include "guard/cache_reset.h"

namespace lockguard::pg {

void run(const UtilityCall& call) {
    const CommandMark mark = begin_command();
    bool succeeded = false;
    run_guarded(
        [&call, &succeeded] {
            call.next(call.planned, call.query, call.read_only_tree, call.context, call.parameters,
                      call.environment, call.destination, call.completion);
            succeeded = true;
        },
        [mark, &succeeded] {
            if (!succeeded)
                command_failed(mark);
        });
}

void run_copy(const UtilityCall& call) {
    UtilityCall copy = call;
    copy.read_only_tree = true;
    run(copy);
}

} // namespace lockguard::pg
