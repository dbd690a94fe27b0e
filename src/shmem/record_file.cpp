#include "shmem/record_file.h"

#include "boundary/memory.h"
#include "shmem/event_ring.h"
#include "shmem/incident_ring.h"
#include "shmem/wait_table.h"

extern "C" {
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
}

namespace lockguard::pg {

namespace {

constexpr const char* kFile = PGSTAT_STAT_PERMANENT_DIRECTORY "/pg_lockguard.stat";
constexpr const char* kTemporaryFile = PGSTAT_STAT_PERMANENT_DIRECTORY "/pg_lockguard.stat.tmp";

constexpr uint32 kMagic = 0x4c47'5244; // "LGRD", and the order of bytes
constexpr uint32 kVersion = 1;         // of what the structures mean; their sizes are in the header

/// The file: this, the events, the incidents, the entries of waits, all of them as they are in
/// shared memory, and a checksum of all that.
struct Header {
    uint32 magic;
    uint32 version;
    uint32 event_size;
    uint32 incident_size;
    uint32 wait_size;
    uint32 unused;
    int64 event_count;
    int64 incident_count;
    int64 wait_count;
    int64 last_incident_id;
    TimestampTz waits_reset_at;
};

constexpr Header kExpected = {
    kMagic, kVersion, sizeof(Event), sizeof(Incident), sizeof(WaitEntry), 0, 0, 0, 0, 0, 0};

shmem_startup_hook_type previous_shmem_startup_hook;

// ---- Writing

/// A file that is being written, and the checksum so far.
struct Writer {
    FILE* file;
    pg_crc32c checksum;
    bool failed;

    void put(const void* data, Size size) {
        COMP_CRC32C(checksum, data, size);
        failed = failed || fwrite(data, size, 1, file) != 1;
    }
};

/// Nobody follows it any more.
Incident* closed(Incident* incident) {
    if (incident->ended == 0) {
        incident->ended = incident->last_seen;
        incident->end = core::IncidentEnd::unknown;
    }
    return incident;
}

void write_record(Writer* writer) {
    std::span<const EventPlace> events = recorded_events();
    auto* event = new_object<Event>();
    Header header = kExpected;
    header.last_incident_id = last_incident_number();
    header.waits_reset_at = waits_reset_at();
    for (const EventPlace& place : events)
        header.event_count += read_event(place, event) ? 1 : 0;
    for (int i = 0; i < incident_places(); i++)
        header.incident_count += incident_at(i)->id != 0 ? 1 : 0;
    for (int i = 0; i < wait_places(); i++)
        header.wait_count += is_used_wait_place(i) ? 1 : 0;
    writer->put(&header, sizeof(header));
    for (const EventPlace& place : events) {
        if (read_event(place, event))
            writer->put(event, sizeof(*event));
    }
    for (int i = 0; i < incident_places(); i++) {
        if (incident_at(i)->id != 0)
            writer->put(closed(incident_at(i)), sizeof(Incident));
    }
    for (int i = 0; i < wait_places(); i++) {
        if (is_used_wait_place(i))
            writer->put(wait_entry_at(i), sizeof(WaitEntry));
    }
    pfree(event);
}

/// The state of the server, as its control file has it.
struct ServerState {
    bool is_shut_down; // as it should be. Not: by an immediate shutdown, whose processes end
                       // wherever they are
    pg_crc32c control; // the file's own checksum: the same as long as nobody has written to it
};

ServerState server_state() {
    bool checksum_is_right = false;
    const ControlFileData* control = get_controlfile(DataDir, &checksum_is_right);
    const bool is_shut_down = checksum_is_right && (control->state == DB_SHUTDOWNED ||
                                                    control->state == DB_SHUTDOWNED_IN_RECOVERY);
    return {is_shut_down, control->crc};
}

/// When the shared memory was made.
ServerState at_start;

/// A crash leaves nothing that could be believed. A start that fails before the server has run
/// leaves what was loaded.
void save(int code, Datum /*argument*/) {
    const ServerState now = server_state();
    if (!now.is_shut_down || (code != 0 && !EQ_CRC32C(now.control, at_start.control)))
        return;
    Writer writer = {AllocateFile(kTemporaryFile, PG_BINARY_W), 0, false};
    if (writer.file == nullptr) {
        ereport(LOG, (errcode_for_file_access(),
                      errmsg("pg_lockguard: could not create file \"%s\": %m", kTemporaryFile)));
        return;
    }
    INIT_CRC32C(writer.checksum);
    write_record(&writer);
    FIN_CRC32C(writer.checksum);
    pg_crc32c checksum = writer.checksum;
    bool failed = writer.failed || fwrite(&checksum, sizeof(checksum), 1, writer.file) != 1;
    failed = FreeFile(writer.file) != 0 || failed;
    if (failed) {
        ereport(LOG, (errcode_for_file_access(),
                      errmsg("pg_lockguard: could not write file \"%s\": %m", kTemporaryFile)));
        unlink(kTemporaryFile);
        return;
    }
    durable_rename(kTemporaryFile, kFile, LOG);
}

// ---- Reading

/// The whole file, without its checksum.
struct Content {
    const char* data;
    Size size;
    const char* fault; // why it can't be used; null where it can
};

Content read_file(FILE* file) {
    struct stat status;
    if (fstat(fileno(file), &status) != 0)
        return {nullptr, 0, "it can't be read"};
    auto size = static_cast<Size>(status.st_size);
    if (size < sizeof(Header) + sizeof(pg_crc32c) || size > MaxAllocHugeSize / 2)
        return {nullptr, 0, "its size is wrong"};
    auto* data = static_cast<char*>(palloc_extended(size, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM));
    if (data == nullptr)
        return {nullptr, 0, "there is not enough memory"};
    Content content = {data, size - sizeof(pg_crc32c), nullptr};
    if (fread(data, size, 1, file) != 1) {
        content.fault = "it can't be read";
        return content;
    }
    pg_crc32c checksum;
    pg_crc32c stored;
    memcpy(&stored, data + content.size, sizeof(stored));
    INIT_CRC32C(checksum);
    COMP_CRC32C(checksum, data, content.size);
    FIN_CRC32C(checksum);
    if (!EQ_CRC32C(checksum, stored))
        content.fault = "its checksum is wrong";
    return content;
}

/// Why the content is not what this library writes; null where it is.
const char* fault_of(const Content& content, const Header& header) {
    if (header.magic != kMagic)
        return "it is no such file";
    if (header.version != kVersion || header.event_size != sizeof(Event) ||
        header.incident_size != sizeof(Incident) || header.wait_size != sizeof(WaitEntry))
        return "it is of another version";
    auto most = static_cast<int64>(content.size);
    if (header.event_count < 0 || header.incident_count < 0 || header.wait_count < 0 ||
        header.event_count > most || header.incident_count > most || header.wait_count > most ||
        content.size != sizeof(Header) + static_cast<Size>(header.event_count) * sizeof(Event) +
                            static_cast<Size>(header.incident_count) * sizeof(Incident) +
                            static_cast<Size>(header.wait_count) * sizeof(WaitEntry))
        return "its size is wrong";
    return nullptr;
}

/// Into the shared memory, which is empty. Where it has less room than the file, the oldest, or the
/// least used, are left out.
void restore(const Content& content, const Header& header) {
    const char* next = content.data + sizeof(Header);
    auto* event = new_object<Event>();
    for (int64 i = 0; i < header.event_count; i++, next += sizeof(Event)) {
        memcpy(static_cast<void*>(event), next, sizeof(Event));
        restore_event(*event);
    }
    pfree(event);
    auto* incident = new_object<Incident>();
    for (int64 i = 0; i < header.incident_count; i++, next += sizeof(Incident)) {
        memcpy(static_cast<void*>(incident), next, sizeof(Incident));
        restore_incident(*closed(incident));
    }
    pfree(incident);
    set_last_incident_number(header.last_incident_id);
    auto* entry = new_object<WaitEntry>();
    for (int64 i = 0; i < header.wait_count; i++, next += sizeof(WaitEntry)) {
        memcpy(static_cast<void*>(entry), next, sizeof(WaitEntry));
        restore_wait(*entry);
    }
    pfree(entry);
    set_waits_reset_at(header.waits_reset_at);
}

void load() {
    FILE* file = AllocateFile(kFile, PG_BINARY_R);
    if (file == nullptr) {
        if (errno != ENOENT)
            ereport(LOG, (errcode_for_file_access(),
                          errmsg("pg_lockguard: could not read file \"%s\": %m", kFile)));
        return;
    }
    // As PostgreSQL does with its own statistics.
    Content content = {nullptr, 0, "the server was not shut down cleanly"};
    if (at_start.is_shut_down)
        content = read_file(file);
    FreeFile(file);
    Header header = {};
    const char* fault = content.fault;
    if (fault == nullptr) {
        memcpy(&header, content.data, sizeof(header));
        fault = fault_of(content, header);
    }
    if (fault == nullptr)
        restore(content, header);
    else
        ereport(LOG, (errmsg("pg_lockguard: file \"%s\" is dropped: %s", kFile, fault),
                      errdetail("Events, incidents and accumulated waits begin anew.")));
    if (content.data != nullptr)
        pfree(const_cast<char*>(content.data));
    // Not again at a later start, whatever becomes of this one.
    durable_unlink(kFile, LOG);
}

void start_up() {
    if (previous_shmem_startup_hook != nullptr)
        previous_shmem_startup_hook();
    // The postmaster, or a standalone backend: it has just made the shared memory.
    if (IsUnderPostmaster)
        return;
    at_start = server_state();
    on_shmem_exit(save, Datum{0});
    load();
}

} // namespace

void set_up_record_file() {
    previous_shmem_startup_hook = shmem_startup_hook;
    shmem_startup_hook = start_up;
}

} // namespace lockguard::pg
