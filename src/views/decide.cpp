// pg_lockguard_decide(pid, what): somebody decides for a statement that waits at low priority.
//
// The statement is the one that waits when this is called: shmem/wait_decisions gives each wait a
// number. What becomes of the decision is the statement's to say; this waits for its answer, a
// moment at most.
#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/clock.h"
#include "shmem/segment.h"
#include "shmem/wait_decisions.h"

extern "C" {
#include "catalog/pg_authid.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pg_lockguard_decide);
}

namespace lockguard::features {

namespace {

/// A statement that waits hears within a second, unless its machine is paused; one that tries its
/// locks just now may need longer. Afterwards the decision has lapsed.
constexpr int64 kHearingTime = 3'000'000; // µs

/// How long an answer is waited for once the decision has been taken: it may look up names.
constexpr int64 kAnsweringTime = 2'000'000; // µs

constexpr long kPoll = 20; // ms; an answer wakes this process up before that

pg::Decision decision_from(const char* word) {
    for (pg::Decision decision :
         {pg::Decision::give_up, pg::Decision::queue, pg::Decision::terminate}) {
        if (strcmp(word, pg::decision_name(decision)) == 0)
            return decision;
    }
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("\"%s\" is nothing that can be decided for a waiting statement", word),
                    errhint("Decide \"give up\" (it fails), \"queue\" (it stands in the lock queue "
                            "from now on) or \"terminate\" (it ends the sessions that hold the "
                            "lock).")));
    return pg::Decision::none; // not reached
}

/// The rule of pg_cancel_backend().
bool may_decide_for(const PGPROC* proc) {
    Oid owner = proc->roleId;
    Oid user = GetUserId();
    if (superuser())
        return true;
    if (!OidIsValid(owner) || superuser_arg(owner))
        return false;
    return has_privs_of_role(user, owner) || has_privs_of_role(user, ROLE_PG_SIGNAL_BACKEND);
}

void require_right(const PGPROC* proc, int pid) {
    if (may_decide_for(proc))
        return;
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
             errmsg("permission denied to decide for the statement of PID %d", pid),
             errdetail("Members of its role or of pg_signal_backend may; only superusers may for a "
                       "superuser's statement.")));
}

bool warn_that_nobody_waits(int pid) {
    ereport(WARNING, (errmsg("PID %d does not wait at low priority", pid)));
    return false;
}

/// A posting, as long as it may have to be taken back.
struct OpenPosting {
    int procno;
    uint64 number;
};

void await_next_look() {
    static uint32 wait_event;
    if (wait_event == 0)
        wait_event = pg::compat::new_wait_event("PgLockguardDecide");
    WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, kPoll, wait_event);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
}

/// What the statement has answered; or that it has none.
struct Answer {
    bool heard;
    pg::DecisionAnswer answer;
    char reason[pg::kDecisionAnswerBytes];
};

void await_answer(const OpenPosting& open, int64 until, Answer* answer) {
    bool taken = false;
    for (;;) {
        switch (pg::look_for_answer(open.procno, open.number, &answer->answer, &answer->reason)) {
        case pg::Hearing::not_yet:
            break;
        case pg::Hearing::taken:
            taken = true;
            break;
        case pg::Hearing::answered:
            answer->heard = true;
            return;
        case pg::Hearing::never:
            answer->heard = taken;
            return;
        }
        int64 now = pg::steady_now();
        if (!taken && now >= until && pg::withdraw_decision(open.procno, open.number))
            return;
        if (now >= until + kAnsweringTime) {
            answer->heard = true;
            return;
        }
        await_next_look();
    }
}

/// Posts the decision when the slot is free, and waits for what comes of it. Where this is
/// cancelled, it is taken back, if it has not been taken yet.
void decide(const pg::DecidableWait& wait, const pg::DecisionRequest& request, Answer* answer) {
    const int64 until = pg::steady_now() + kHearingTime;
    OpenPosting open = {wait.procno, 0};
    pg::run_guarded(
        [&] {
            for (;;) {
                switch (pg::post_decision(wait, request, until, &open.number)) {
                case pg::Posting::posted:
                    await_answer(open, until, answer);
                    return;
                case pg::Posting::busy:
                    break;
                case pg::Posting::nobody:
                    return;
                }
                if (pg::steady_now() >= until)
                    return;
                await_next_look();
            }
        },
        [&open] {
            if (open.number != 0)
                pg::withdraw_decision(open.procno, open.number);
        });
}

bool tell(const Answer& answer, int pid) {
    if (!answer.heard) {
        ereport(WARNING, (errmsg("PID %d has not heard the decision while it waited", pid)));
        return false;
    }
    switch (answer.answer) {
    case pg::DecisionAnswer::done:
        break;
    case pg::DecisionAnswer::not_permitted:
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied to end the sessions in the way of PID %d", pid),
                        errdetail_internal("Nobody was ended: %s.", answer.reason)));
        break;
    case pg::DecisionAnswer::not_done:
        ereport(WARNING, (errmsg("nobody was ended who is in the way of PID %d", pid),
                          errdetail_internal("%s.", answer.reason)));
        break;
    }
    return true;
}

} // namespace

} // namespace lockguard::features

/// pg_lockguard_decide(pid int4, what text) → bool: whether the statement that waits there has
/// heard it. Errors: 55000 without shared memory, 22023 for an unknown `what`, 42501 where the
/// caller lacks a right.
Datum pg_lockguard_decide(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    pg::require_shared_state();
    int pid = PG_GETARG_INT32(0);
    pg::DecisionRequest request = {};
    request.decision = features::decision_from(text_to_cstring(PG_GETARG_TEXT_PP(1)));

    const PGPROC* proc = BackendPidGetProc(pid);
    if (proc == nullptr) {
        ereport(WARNING, (errmsg("PID %d is not a PostgreSQL server process", pid)));
        PG_RETURN_BOOL(false);
    }
    features::require_right(proc, pid);
    pg::DecidableWait wait;
    // What this session itself waits for, it does not at this moment.
    if (pid == MyProcPid || !pg::find_decidable_wait(pg::compat::procno_of(proc), pid, &wait))
        PG_RETURN_BOOL(features::warn_that_nobody_waits(pid));

    request.pid = MyProcPid;
    request.procno = pg::compat::procno_of(MyProc);
    request.rights = GetUserId();
    request.role = MyProc->roleId;
    strlcpy(request.application, application_name == nullptr ? "" : application_name,
            sizeof(request.application));
    features::Answer answer = {};
    features::decide(wait, request, &answer);
    PG_RETURN_BOOL(features::tell(answer, pid));
}
