// ereport(NOTICE) writes to the client by way of PqCommMethods, and waits there: for room in the
// session's buffer, then for the connection to take it. So for the length of the call these methods
// are ones that do not wait. All else of a NOTICE (settings, hooks, context, encoding, the log)
// remains the server's.
#include "boundary/client_notice.h"

#include "boundary/bridge.h"

// libpq/libpq.h wants libpq/libpq-be.h, for which the headers of GSSAPI are needed where the server
// was built with it. It names these types only.
#define LIBPQ_BE_H
struct Port;
struct ClientSocket;

extern "C" {
#include "libpq/pqcomm.h"

#include "libpq/libpq.h"
#include "storage/latch.h"
}

namespace lockguard::pg {

namespace {

/// The session's own, while ours are in their place.
const PQcommMethods* session_methods;

/// The connection takes this NOTICE, and more than that.
bool has_room;

/// Counts as done what is not sent yet: it is flushed with whatever is sent next.
int flush_what_goes() {
    return session_methods->flush_if_writable();
}

int put_if_there_is_room(char type, const char* body, size_t length) {
    if (!has_room)
        return 0;
    // It calls PqCommMethods->putmessage in turn, with room for the whole message.
    const PQcommMethods* ours = PqCommMethods;
    PqCommMethods = session_methods;
    session_methods->putmessage_noblock(type, body, length);
    PqCommMethods = ours;
    return 0;
}

/// Does the kernel call the connection writable? Linux does as long as a good part of its buffer is
/// free. Where a client does not read, the rest is for what the server has to say, for which it
/// waits, maybe with the locks of the statement. Other systems may leave less.
bool is_writable() {
    ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_WRITEABLE, nullptr);
    for (;;) {
        WaitEvent events[3];
        const int count = WaitEventSetWait(FeBeWaitSet, 0, events, lengthof(events), 0);
        uint32 seen = 0;
        for (int i = 0; i < count; i++)
            seen |= events[i].events;
        if ((seen & WL_SOCKET_WRITEABLE) != 0)
            return true;
        if ((seen & WL_LATCH_SET) == 0)
            return false;
        ResetLatch(MyLatch); // it may hide the socket; send_notice() serves what has set it
    }
}

/// Of a session whose client has gone, nothing is pending: what was written is thrown away.
void send(const ClientNotice& notice) {
    session_methods->flush_if_writable();
    has_room = FeBeWaitSet != nullptr && !session_methods->is_send_pending() && is_writable();
    // An interrupt could end the session here, with a FATAL that must not be lost.
    HOLD_INTERRUPTS();
    ereport(NOTICE, (errmsg_internal("%s", notice.message),
                     notice.detail != nullptr ? errdetail_internal("%s", notice.detail) : 0,
                     notice.hint != nullptr ? errhint("%s", notice.hint) : 0));
    RESUME_INTERRUPTS();
}

} // namespace

bool is_notice_wanted() {
    return message_level_is_interesting(NOTICE);
}

void send_notice(const ClientNotice& notice) {
    Assert(session_methods == nullptr);
    PQcommMethods methods = *PqCommMethods;
    methods.flush = flush_what_goes;
    methods.putmessage = put_if_there_is_room;
    session_methods = PqCommMethods;
    run_guarded(
        [&notice, &methods] {
            PqCommMethods = &methods;
            send(notice);
        },
        [] {
            PqCommMethods = session_methods;
            session_methods = nullptr;
        });
    CHECK_FOR_INTERRUPTS();
}

} // namespace lockguard::pg
