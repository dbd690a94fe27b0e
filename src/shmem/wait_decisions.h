// What somebody else decides for a statement that waits at low priority (pg_lockguard_decide): from
// the session that decides to the one that waits, and the answer back.
//
// Each backend has a slot, with a spinlock that guards all of it and is held for a copy, nothing
// else. A statement listens while it waits. Who decides posts a request for the very wait that he
// has seen; the statement takes it, acts, and answers; who decides watches the slot meanwhile. What
// is not taken in time, or before the wait ends, is never taken. Any of them may die at any moment:
// a request that nobody withdraws lapses, and a slot whose process has gone listens to nobody.
#pragma once

#include "boundary/compat.h"
#include "shmem/segment.h"

namespace lockguard::pg {

enum class Decision : uint8 { none, give_up, queue, terminate };

/// "give up", "queue", "terminate"; "" for none.
const char* decision_name(Decision decision);

/// A wait that can be decided for: no other one of this server has these values.
struct DecidableWait {
    int procno;
    int pid;
    uint64 number;
};

/// A decision, and who has made it.
struct DecisionRequest {
    Decision decision;
    int pid;
    int procno;
    Oid rights; // the role with whose rights it is carried out
    Oid role;   // the authenticated one
    char application[NAMEDATALEN];
};

// ---- The statement

/// This backend waits: from now on decisions can be posted to it. Without shared memory it does
/// nothing. None of these ereports.
void listen_for_decisions();
/// The wait is over, or beyond any decision. What has not been taken by now never is.
void stop_listening();

/// Has somebody decided? A few instructions, no lock; also for signal handlers.
bool is_decision_posted();

/// Takes the decision; false where there is none (any more).
bool take_decision(DecisionRequest* request);

enum class DecisionAnswer : uint8 {
    done,
    not_permitted, // the decider lacks a right
    not_done,      // for another reason
};
inline constexpr std::size_t kDecisionAnswerBytes = 256;

/// Says what came of the decision that was taken last, and wakes who has made it.
///
/// \param reason  in words, where it was not done; longer text is cut
void answer_decision(DecisionAnswer answer, const char* reason);

// ---- Who decides

/// The wait of that process; false where it does not wait at low priority. Never ereports.
bool find_decidable_wait(int procno, int pid, DecidableWait* wait);

enum class Posting : uint8 {
    posted,
    busy,   // with somebody else's
    nobody, // it is over
};
/// Posts it, until then by steady_now(): later it is not taken any more. Wakes the
/// statement.
///
/// \param posting  where it is posted: to ask for its answer by
Posting post_decision(const DecidableWait& wait, const DecisionRequest& request, int64 until,
                      uint64* posting);

enum class Hearing : uint8 {
    not_yet,
    taken, // and not answered yet
    answered,
    never, // the wait has ended before
};
/// What has become of a decision that this process has posted. An answer is told once.
Hearing look_for_answer(int procno, uint64 posting, DecisionAnswer* answer,
                        char (*reason)[kDecisionAnswerBytes]);

/// Takes it back. Returns false where that is too late: it has been taken.
bool withdraw_decision(int procno, uint64 posting);

extern const SharedPart kWaitDecisionsPart;

} // namespace lockguard::pg
