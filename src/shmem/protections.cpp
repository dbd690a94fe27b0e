#include "shmem/protections.h"

#include "boundary/settings.h"

namespace lockguard::pg {

namespace {

/// What a session says of itself: its start time, doubled, plus 1 where it is protected; 0 where it
/// says nothing. In one word, so that it is read whole. Written by the session alone.
SlotsByProc<pg_atomic_uint64> sessions;

/// A Protection: what the configuration files say. Null where not preloaded.
pg_atomic_uint32* server;

Size server_size() {
    return sizeof(*server);
}

void attach_sessions(void* memory, bool is_new) {
    sessions.slots = static_cast<pg_atomic_uint64*>(memory);
    for (int i = 0; i < MaxBackends && is_new; i++)
        pg_atomic_init_u64(&sessions.slots[i], 0);
}

void attach_server(void* memory, bool is_new) {
    server = static_cast<pg_atomic_uint32*>(memory);
    if (is_new)
        pg_atomic_init_u32(server, static_cast<uint32>(Protection::as_server));
}

} // namespace

constinit const SharedPart kSessionProtectionsPart = {
    "pg_lockguard protected sessions", SlotsByProc<pg_atomic_uint64>::size, attach_sessions};
constinit const SharedPart kServerProtectionPart = {"pg_lockguard protected by default",
                                                    server_size, attach_server};

void publish_protection(Protection protection) {
    pg_atomic_uint64* session = sessions.own();
    if (session == nullptr)
        return;
    uint64 word = 0;
    if (protection != Protection::as_server)
        word = (static_cast<uint64>(MyStartTimestamp) << 1) | (protection == Protection::on);
    pg_atomic_write_u64(session, word);
}

void protection_changed(bool whole_server, bool value) {
    if (whole_server)
        publish_protection(Protection::as_server);
    else
        publish_protection(value ? Protection::on : Protection::off);
}

Protection protection_of(int procno, TimestampTz session_start) {
    pg_atomic_uint64* session = sessions.of(procno);
    if (session == nullptr)
        return Protection::as_server;
    uint64 word = pg_atomic_read_u64(session);
    if (word == 0 || (word | 1) != ((static_cast<uint64>(session_start) << 1) | 1))
        return Protection::as_server;
    return (word & 1) != 0 ? Protection::on : Protection::off;
}

void publish_server_protection() {
    if (server == nullptr)
        return;
    Protection protection = settings.protected_session ? Protection::on : Protection::off;
    pg_atomic_write_u32(server, static_cast<uint32>(protection));
}

bool protected_by_server() {
    if (server != nullptr) {
        uint32 word = pg_atomic_read_u32(server);
        if (word != static_cast<uint32>(Protection::as_server))
            return word == static_cast<uint32>(Protection::on);
    }
    return settings.protected_session;
}

} // namespace lockguard::pg
