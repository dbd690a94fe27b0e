#include "shmem/guarded_sessions.h"

extern "C" {
#include "storage/latch.h"
#include "storage/spin.h"
}

namespace lockguard::pg {

namespace {

/// On cache lines of its own.
struct alignas(PG_CACHE_LINE_SIZE) Place {
    // Written by the session alone.
    pg_atomic_uint32 changes;     // odd while it writes the next three as one
    pg_atomic_uint64 transaction; // pid and, in the lower half, lxid; 0 where there is none
    pg_atomic_uint64 since;
    pg_atomic_uint64 limits;    // max_stall and lock_timeout
    pg_atomic_uint64 statement; // number, command tag (16 bits), in_attempt (the lowest bit)

    // Written by the watcher alone (and cleared by a session when it first uses the place).
    pg_atomic_uint64 order;      // see order_word(); 0 also while the next one is written
    pg_atomic_uint64 wait_start; // report.wait_start, for a signal handler
    slock_t lock;                // guards what follows; held for a copy, nothing else
    uint64 reported;             // the order with which the report came
    StallReport report;
};

// A session changes what it shows in a few instructions. Where it is interrupted between them, the
// next look is soon enough.
constexpr int kReadAttempts = 100;

/// A transaction that has been prepared, or is about to be.
struct PreparedPlace {
    pg_atomic_uint64 word; // its xid, and max_stall in the lower half; 0 where the place is free
    pg_atomic_uint64 since;
    pg_atomic_uint64 command;
};

/// Process-local: where this process finds the shared parts.
struct {
    SlotsByProc<Place> places;
    PreparedPlace* prepared; // max_prepared_xacts of them
    // Its procno plus 1, doubled, plus 1 while it sleeps; 0: there is none.
    pg_atomic_uint64* watcher;
    bool used; // this process has used its place
} state;

Place* place_of(int procno) {
    return state.places.of(procno);
}

Place* own_place() {
    return state.places.own();
}

uint64 pair_of(uint32 high, uint32 low) {
    return (static_cast<uint64>(high) << 32) | low;
}
uint32 high_of(uint64 pair) {
    return static_cast<uint32>(pair >> 32);
}
uint32 low_of(uint64 pair) {
    return static_cast<uint32>(pair);
}

/// The statement's number and, in the lower half, what it is asked for.
uint64 order_word(uint32 statement, GuardOrder order) {
    return pair_of(statement, static_cast<uint32>(order));
}
GuardOrder order_in(uint64 word, uint32 statement) {
    return statement != 0 && high_of(word) == statement ? static_cast<GuardOrder>(low_of(word))
                                                        : GuardOrder::none;
}

/// What a session shows of its transaction is being changed between the two. Nothing there may
/// fail. The transaction's word alone does not do: it is the same after a change of the limits.
void begin_change(Place* place) {
    const uint32 changes = pg_atomic_read_u32(&place->changes);
    Assert(changes % 2 == 0);
    pg_atomic_write_u32(&place->changes, changes + 1);
    pg_write_barrier();
}
void end_change(Place* place) {
    pg_write_barrier();
    pg_atomic_write_u32(&place->changes, pg_atomic_read_u32(&place->changes) + 1);
}

void wake_watcher() {
    uint64 word = pg_atomic_read_u64(state.watcher);
    // Where it has just exited, somebody else's latch is set for nothing, which does no harm.
    if ((word & 1) != 0)
        SetLatch(&GetPGProcByNumber((word >> 1) - 1)->procLatch);
}

void withdraw_watcher(int /*code*/, Datum /*argument*/) {
    pg_atomic_write_u64(state.watcher, 0);
}

} // namespace

// ---- The session's side

void publish_guarded_transaction(TimestampTz since, int max_stall, int lock_timeout) {
    Place* place = own_place();
    if (place == nullptr)
        return;
    if (!state.used) {
        // What an earlier process has left behind here.
        pg_atomic_write_u64(&place->transaction, 0);
        pg_atomic_write_u64(&place->order, 0);
        pg_atomic_write_u64(&place->statement, 0);
        SpinLockAcquire(&place->lock);
        place->reported = 0;
        SpinLockRelease(&place->lock);
        state.used = true;
    }
    begin_change(place);
    pg_atomic_write_u64(&place->since, static_cast<uint64>(since));
    pg_atomic_write_u64(&place->limits,
                        pair_of(static_cast<uint32>(max_stall), static_cast<uint32>(lock_timeout)));
    pg_atomic_write_u64(&place->transaction,
                        pair_of(static_cast<uint32>(MyProcPid), compat::lxid_of(MyProc)));
    end_change(place);
    // Either the watcher sees the word when it looks once more before it sleeps, or we see that it
    // sleeps.
    pg_memory_barrier();
    wake_watcher();
}

void withdraw_guarded_transaction() {
    Place* place = own_place();
    if (place != nullptr)
        pg_atomic_write_u64(&place->transaction, 0);
}

void publish_guarded_statement(uint32 statement, CommandTag command, bool in_attempt) {
    Place* place = own_place();
    if (place != nullptr)
        pg_atomic_write_u64(&place->statement,
                            pair_of(statement, (static_cast<uint32>(command) << 1) |
                                                   static_cast<uint32>(in_attempt)));
}

void withdraw_guarded_statement() {
    Place* place = own_place();
    if (place != nullptr)
        pg_atomic_write_u64(&place->statement,
                            pair_of(0, low_of(pg_atomic_read_u64(&place->statement))));
}

void publish_guarded_prepared(TransactionId xid, TimestampTz since, int max_stall,
                              CommandTag command) {
    for (int i = 0; state.prepared != nullptr && i < max_prepared_xacts; i++) {
        PreparedPlace* place = &state.prepared[i];
        uint64 word = pg_atomic_read_u64(&place->word);
        // One that the watcher has not come to free, as it sleeps, is as good.
        if ((word != 0 && TransactionIdIsInProgress(high_of(word))) ||
            !pg_atomic_compare_exchange_u64(&place->word, &word, pair_of(xid, 0)))
            continue;
        pg_atomic_write_u64(&place->since, static_cast<uint64>(since));
        pg_atomic_write_u64(&place->command, static_cast<uint64>(command));
        pg_write_barrier();
        pg_atomic_write_u64(&place->word, pair_of(xid, static_cast<uint32>(max_stall)));
        pg_memory_barrier();
        wake_watcher();
        return;
    }
}

bool is_guard_watched() {
    return state.watcher != nullptr && pg_atomic_read_u64(state.watcher) != 0;
}

// ---- The watcher's side

void announce_guard_watcher() {
    on_shmem_exit(withdraw_watcher, Datum{0});
    set_watcher_asleep(false);
}

void set_watcher_asleep(bool asleep) {
    pg_atomic_write_u64(state.watcher, (static_cast<uint64>(compat::procno_of(MyProc)) + 1) << 1 |
                                           static_cast<uint64>(asleep));
    pg_memory_barrier();
}

bool read_guarded_session(int procno, GuardedSession* session) {
    Place* place = place_of(procno);
    if (place == nullptr)
        return false;
    for (int attempt = 0; attempt < kReadAttempts; attempt++) {
        const uint32 changes = pg_atomic_read_u32(&place->changes);
        pg_read_barrier();
        const uint64 transaction = pg_atomic_read_u64(&place->transaction);
        if (transaction == 0)
            return false;
        const PGPROC* proc = GetPGProcByNumber(procno);
        session->pid = static_cast<int>(high_of(transaction));
        session->lxid = low_of(transaction);
        if (proc->pid != session->pid || compat::lxid_of(proc) != session->lxid)
            return false; // it was of an earlier one
        session->since = static_cast<TimestampTz>(pg_atomic_read_u64(&place->since));
        const uint64 limits = pg_atomic_read_u64(&place->limits);
        session->max_stall = static_cast<int>(high_of(limits));
        session->lock_timeout = static_cast<int>(low_of(limits));
        const uint64 statement = pg_atomic_read_u64(&place->statement);
        session->statement = high_of(statement);
        session->in_attempt = (low_of(statement) & 1) != 0;
        const uint32 tag = low_of(statement) >> 1;
        session->command =
            tag < compat::kCommandTagCount ? static_cast<CommandTag>(tag) : CMDTAG_UNKNOWN;
        pg_read_barrier();
        if (changes % 2 == 0 && pg_atomic_read_u32(&place->changes) == changes)
            return true;
        pg_spin_delay();
    }
    return false;
}

bool read_guarded_prepared(int place_number, GuardedSession* transaction) {
    if (state.prepared == nullptr || place_number >= max_prepared_xacts)
        return false;
    PreparedPlace* place = &state.prepared[place_number];
    const uint64 word = pg_atomic_read_u64(&place->word);
    if (low_of(word) == 0)
        return false;
    pg_read_barrier();
    const uint64 command = pg_atomic_read_u64(&place->command);
    *transaction = {};
    transaction->lxid = high_of(word);
    transaction->max_stall = static_cast<int>(low_of(word));
    transaction->since = static_cast<TimestampTz>(pg_atomic_read_u64(&place->since));
    transaction->command =
        command < compat::kCommandTagCount ? static_cast<CommandTag>(command) : CMDTAG_UNKNOWN;
    pg_read_barrier();
    // Where it is another one by now, that one has woken the watcher.
    return pg_atomic_read_u64(&place->word) == word;
}

void forget_guarded_prepared(int place_number, TransactionId xid) {
    PreparedPlace* place = &state.prepared[place_number];
    uint64 word = pg_atomic_read_u64(&place->word);
    if (high_of(word) == xid)
        pg_atomic_compare_exchange_u64(&place->word, &word, 0);
}

void post_guard_order(int procno, uint32 statement, GuardOrder order, const StallReport& report) {
    Place* place = place_of(procno);
    if (place == nullptr)
        return;
    const uint64 word = order_word(statement, order);
    SpinLockAcquire(&place->lock);
    place->reported = word;
    place->report = report;
    SpinLockRelease(&place->lock);
    // No earlier order stands with the start of another wait.
    pg_atomic_write_u64(&place->order, 0);
    pg_write_barrier();
    pg_atomic_write_u64(&place->wait_start, static_cast<uint64>(report.wait_start));
    pg_write_barrier();
    pg_atomic_write_u64(&place->order, word);
}

GuardOrder order_for(uint32 statement, TimestampTz* wait_start) {
    Place* place = own_place();
    if (place == nullptr)
        return GuardOrder::none;
    const uint64 word = pg_atomic_read_u64(&place->order);
    pg_read_barrier();
    *wait_start = static_cast<TimestampTz>(pg_atomic_read_u64(&place->wait_start));
    pg_read_barrier();
    // Where it is another one by now, the signal for that one is still to come.
    return pg_atomic_read_u64(&place->order) == word ? order_in(word, statement) : GuardOrder::none;
}

GuardOrder order_with_report(uint32 statement, StallReport* report) {
    *report = {};
    Place* place = own_place();
    if (place == nullptr)
        return GuardOrder::none;
    SpinLockAcquire(&place->lock);
    const GuardOrder order = order_in(place->reported, statement);
    if (order != GuardOrder::none)
        *report = place->report;
    SpinLockRelease(&place->lock);
    return order;
}

// ---- The memory

namespace {

/// Shared memory is aligned to cache lines, but that is nowhere promised.
Size places_size() {
    return add_size(SlotsByProc<Place>::size(), alignof(Place));
}

void attach_places(void* memory, bool is_new) {
    state.places.slots = reinterpret_cast<Place*>(TYPEALIGN(alignof(Place), memory));
    for (int i = 0; i < MaxBackends && is_new; i++) {
        Place* place = &state.places.slots[i];
        pg_atomic_init_u32(&place->changes, 0);
        pg_atomic_init_u64(&place->transaction, 0);
        pg_atomic_init_u64(&place->since, 0);
        pg_atomic_init_u64(&place->limits, 0);
        pg_atomic_init_u64(&place->statement, 0);
        pg_atomic_init_u64(&place->order, 0);
        pg_atomic_init_u64(&place->wait_start, 0);
        SpinLockInit(&place->lock);
        place->reported = 0;
        place->report = {};
    }
}

Size prepared_size() {
    return mul_size(sizeof(PreparedPlace), static_cast<Size>(Max(max_prepared_xacts, 1)));
}

void attach_prepared(void* memory, bool is_new) {
    state.prepared = static_cast<PreparedPlace*>(memory);
    for (int i = 0; i < max_prepared_xacts && is_new; i++) {
        pg_atomic_init_u64(&state.prepared[i].word, 0);
        pg_atomic_init_u64(&state.prepared[i].since, 0);
        pg_atomic_init_u64(&state.prepared[i].command, 0);
    }
}

Size watcher_size() {
    return sizeof(pg_atomic_uint64);
}

void attach_watcher(void* memory, bool is_new) {
    state.watcher = static_cast<pg_atomic_uint64*>(memory);
    if (is_new)
        pg_atomic_init_u64(state.watcher, 0);
}

} // namespace

constinit const SharedPart kGuardedSessionsPart = {"pg_lockguard guarded sessions", places_size,
                                                   attach_places};
constinit const SharedPart kGuardedPreparedPart = {"pg_lockguard guarded prepared transactions",
                                                   prepared_size, attach_prepared};
constinit const SharedPart kGuardWatcherPart = {"pg_lockguard guard watcher", watcher_size,
                                                attach_watcher};

} // namespace lockguard::pg
