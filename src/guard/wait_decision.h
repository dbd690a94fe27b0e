// pg_lockguard_decide(): what somebody else has decided for the statement that waits, on its side.
#pragma once

#include "boundary/compat.h"
#include "guard/low_priority_account.h"
#include "shmem/wait_decisions.h"

namespace lockguard::pg {

/// Says in the record, as an event of the statement, who has decided what. Needs a transaction.
///
/// \param outcome  what came of it, in words; null where it is done
/// \return who decided what, in words, in the current memory context
const char* record_decision(const DecisionRequest& request, const char* outcome,
                            const WaitAccount& account);

} // namespace lockguard::pg
