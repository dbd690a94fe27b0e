#include "shmem/tracked_statements.h"

#include <algorithm>
#include <functional>

namespace lockguard::pg {

namespace {

/// What one backend shows; written by that one alone. Its statements are a ring: number n stands at
/// (n - 1) modulo pg_lockguard.track_statements.
struct Slot {
    uint32 changes; // odd while the backend writes what is below
    int pid;
    LocalTransactionId lxid;
    uint32 last;
    uint32 touch_count;
    bool touches_lost; // no room: who touches another relation first is not known any more
    FirstTouch touches[kTrackedRelations];
    TrackedStatement ring[FLEXIBLE_ARRAY_MEMBER];
};

struct {
    char* slots; // null where nothing is kept
    Size size;   // of one
    int places;  // in a ring
} board;

Size slot_size() {
    return MAXALIGN(offsetof(Slot, ring) +
                    sizeof(TrackedStatement) * static_cast<Size>(settings.track_statements));
}

Size board_size() {
    // No part of ours is of no size.
    return settings.track_statements == 0 ? MAXIMUM_ALIGNOF : mul_size(slot_size(), MaxBackends);
}

Slot* slot_of(int procno) {
    if (board.slots == nullptr || procno < 0 || procno >= MaxBackends)
        return nullptr;
    return reinterpret_cast<Slot*>(board.slots + board.size * static_cast<Size>(procno));
}

Slot* own_slot() {
    return MyProc == nullptr ? nullptr : slot_of(compat::procno_of(MyProc));
}

void attach(void* memory, bool is_new) {
    if (settings.track_statements == 0)
        return;
    board.slots = static_cast<char*>(memory);
    board.size = slot_size();
    board.places = settings.track_statements;
    for (int i = 0; i < MaxBackends && is_new; i++)
        memset(static_cast<void*>(slot_of(i)), 0, board.size);
}

volatile uint32& counter_of(Slot* slot) {
    return *const_cast<volatile uint32*>(&slot->changes);
}

/// The slot is being changed between the two. Nothing there may fail.
void begin_change(Slot* slot) {
    Assert(slot->changes % 2 == 0);
    counter_of(slot) = slot->changes + 1;
    pg_write_barrier();
}

void end_change(Slot* slot) {
    pg_write_barrier();
    counter_of(slot) = slot->changes + 1;
    Assert(slot->changes % 2 == 0);
}

bool is_of_this_transaction(const Slot* slot) {
    return slot->pid == MyProcPid && slot->lxid == compat::lxid_of(MyProc);
}

bool has_touch(const Slot* slot, Oid relation) {
    for (uint32 i = 0; i < slot->touch_count; i++) {
        if (slot->touches[i].relation == relation)
            return true;
    }
    return false;
}

/// Between begin_change() and end_change().
void add_touch(Slot* slot, const FirstTouch& touch) {
    if (slot->touches_lost || has_touch(slot, touch.relation))
        return;
    if (slot->touch_count == kTrackedRelations)
        slot->touches_lost = true;
    else
        slot->touches[slot->touch_count++] = touch;
}

/// Puts the copy's statements in order, oldest first, and drops what no backend writes.
void unroll(const Slot& copy, TrackedTransaction* transaction) {
    const auto places = static_cast<uint32>(board.places);
    transaction->pid = copy.pid;
    transaction->lxid = copy.lxid;
    transaction->last = copy.last;
    transaction->statement_count = 0;
    for (uint32 back = std::min(places, copy.last); back > 0; back--) {
        const uint32 number = copy.last - back + 1;
        const TrackedStatement& statement = copy.ring[(number - 1) % places];
        if (statement.number != number || statement.size > kTrackedStatementBytes ||
            statement.command >= compat::kCommandTagCount)
            continue;
        transaction->statements[transaction->statement_count++] = statement;
    }
    transaction->touch_count =
        static_cast<uint16>(std::min<uint32>(copy.touch_count, kTrackedRelations));
    std::copy_n(copy.touches, transaction->touch_count, transaction->touches);
}

} // namespace

constinit const SharedPart kTrackedStatementsPart = {"pg_lockguard tracked statements", board_size,
                                                     attach};

bool tracks_statements() {
    return board.slots != nullptr;
}

void track_statement(CommandTag command, std::string_view text, bool cut) {
    Slot* slot = own_slot();
    if (slot == nullptr)
        return;
    Assert(text.size() <= kTrackedStatementBytes);
    const TimestampTz now = GetCurrentTimestamp();
    begin_change(slot);
    if (!is_of_this_transaction(slot)) {
        slot->pid = MyProcPid;
        slot->lxid = compat::lxid_of(MyProc);
        slot->last = slot->touch_count = 0;
        slot->touches_lost = false;
    }
    TrackedStatement& statement = slot->ring[slot->last % static_cast<uint32>(board.places)];
    slot->last++;
    statement.began = now;
    statement.number = slot->last;
    statement.command = command;
    statement.size = static_cast<uint16>(text.size());
    statement.cut = cut;
    text.copy(statement.text, text.size());
    end_change(slot);
}

bool has_tracked_statements() {
    const Slot* slot = own_slot();
    return slot != nullptr && is_of_this_transaction(slot) && slot->last > 0;
}

bool is_touch_known(Oid relation) {
    return has_touch(own_slot(), relation);
}

bool is_room_for_touches() {
    return !own_slot()->touches_lost;
}

void note_touches(std::span<const Oid> relations, bool by_last_statement) {
    Assert(has_tracked_statements());
    Slot* slot = own_slot();
    const SubTransactionId subtransaction = GetCurrentSubTransactionId();
    begin_change(slot);
    for (Oid relation : relations)
        add_touch(slot, {relation, by_last_statement ? slot->last : 0, subtransaction});
    end_change(slot);
}

void note_lost_touches() {
    Assert(has_tracked_statements());
    Slot* slot = own_slot();
    begin_change(slot);
    slot->touches_lost = true;
    end_change(slot);
}

void forget_touches_since(SubTransactionId subtransaction) {
    if (!has_tracked_statements())
        return;
    Slot* slot = own_slot();
    // Subtransactions are numbered as they begin: what has a higher number is within this one.
    auto is_kept = [subtransaction](const FirstTouch& touch) {
        return touch.subtransaction < subtransaction;
    };
    FirstTouch* end = slot->touches + slot->touch_count;
    if (std::all_of(slot->touches, end, is_kept))
        return;
    begin_change(slot);
    slot->touch_count = static_cast<uint32>(
        std::remove_if(slot->touches, end, std::not_fn(is_kept)) - slot->touches);
    end_change(slot);
}

bool read_tracked_transaction(int procno, TrackedTransaction* transaction) {
    Slot* slot = slot_of(procno);
    if (slot == nullptr)
        return false;
    const PGPROC* proc = GetPGProcByNumber(procno);
    alignas(Slot) char bytes[offsetof(Slot, ring) +
                             sizeof(TrackedStatement) * kMostTrackedStatements + MAXIMUM_ALIGNOF];
    Assert(board.size <= sizeof(bytes));
    // A backend writes for less than a microsecond at a time. One that does not come to an end of
    // it has been killed, and the server goes down.
    constexpr int kMostAttempts = 1000;
    for (int attempt = 0; attempt < kMostAttempts; attempt++) {
        const uint32 before = counter_of(slot);
        pg_read_barrier();
        memcpy(bytes, static_cast<const void*>(slot), board.size);
        pg_read_barrier();
        if (before % 2 != 0 || counter_of(slot) != before)
            continue;
        const Slot& copy = *reinterpret_cast<const Slot*>(bytes);
        if (copy.pid == 0 || copy.pid != proc->pid || copy.lxid == InvalidLocalTransactionId ||
            copy.lxid != compat::lxid_of(proc) || copy.last == 0)
            return false;
        unroll(copy, transaction);
        return true;
    }
    return false;
}

const TrackedStatement* first_to_touch(const TrackedTransaction& transaction, Oid relation) {
    for (int i = 0; i < transaction.touch_count; i++) {
        if (transaction.touches[i].relation != relation)
            continue;
        for (int j = 0; j < transaction.statement_count; j++) {
            if (transaction.statements[j].number == transaction.touches[i].statement)
                return &transaction.statements[j];
        }
    }
    return nullptr;
}

} // namespace lockguard::pg
