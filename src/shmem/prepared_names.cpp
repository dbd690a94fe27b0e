#include "shmem/prepared_names.h"

namespace lockguard::pg {

namespace {

struct Place {
    // The transaction's xid; kBeingWritten for a moment; InvalidTransactionId where it has had
    // none.
    pg_atomic_uint32 xid;
    char gid[GIDSIZE];
};
constexpr TransactionId kBeingWritten = BootstrapTransactionId;

/// Process-local.
struct {
    Place* places; // max_prepared_xacts of them; null where not preloaded
    // What this session is about to prepare, and in which transaction.
    LocalTransactionId lxid;
    char gid[GIDSIZE];
} state;

Size places_size() {
    return mul_size(sizeof(Place), static_cast<Size>(max_prepared_xacts));
}

void attach(void* memory, bool is_new) {
    state.places = static_cast<Place*>(memory);
    for (int i = 0; i < max_prepared_xacts && is_new; i++)
        pg_atomic_init_u32(&state.places[i].xid, InvalidTransactionId);
}

/// Before anything of the transaction is prepared: an error here is an ordinary one.
void publish(TransactionId xid) {
    for (int i = 0; i < max_prepared_xacts; i++) {
        Place* place = &state.places[i];
        uint32 old = pg_atomic_read_u32(&place->xid);
        if (old == kBeingWritten || (TransactionIdIsValid(old) && TransactionIdIsInProgress(old)))
            continue;
        if (!pg_atomic_compare_exchange_u32(&place->xid, &old, kBeingWritten))
            continue;
        memcpy(place->gid, state.gid, sizeof(place->gid));
        pg_write_barrier();
        pg_atomic_write_u32(&place->xid, xid);
        return;
    }
}

void on_transaction_event(XactEvent event, void* /*argument*/) {
    if (event != XACT_EVENT_PRE_PREPARE || state.places == nullptr ||
        state.lxid != compat::lxid_of(MyProc) || state.gid[0] == '\0')
        return;
    TransactionId xid = GetTopTransactionIdIfAny();
    if (TransactionIdIsValid(xid))
        publish(xid);
    state.gid[0] = '\0';
}

} // namespace

constinit const SharedPart kPreparedNamesPart = {"pg_lockguard prepared transactions", places_size,
                                                 attach};

void note_prepare(const char* gid) {
    if (state.places == nullptr || gid == nullptr)
        return;
    state.lxid = compat::lxid_of(MyProc);
    strlcpy(state.gid, gid, sizeof(state.gid));
}

bool find_prepared_name(TransactionId xid, char (*gid)[GIDSIZE]) {
    for (int i = 0; state.places != nullptr && i < max_prepared_xacts; i++) {
        Place* place = &state.places[i];
        if (pg_atomic_read_u32(&place->xid) != xid)
            continue;
        pg_read_barrier();
        memcpy(*gid, place->gid, sizeof(*gid));
        (*gid)[GIDSIZE - 1] = '\0';
        pg_read_barrier();
        return pg_atomic_read_u32(&place->xid) == xid;
    }
    return false;
}

void install_prepared_names() {
    RegisterXactCallback(on_transaction_event, nullptr);
}

} // namespace lockguard::pg
