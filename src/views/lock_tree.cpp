// SELECT * FROM lock_tree(): who waits for a heavyweight lock and who blocks whom, drawn from the
// root cause down.
//
// One snapshot of the wait-for graph out of shared memory (locks/lock_snapshot) gives the shape;
// then the sessions of the tree, and no others, are asked for their status
// (sessions/backend_status). The shape is visible to everybody, as in pg_locks; the details follow
// pg_stat_activity.

#include "core/lock_forest.h"

#include <algorithm>

#include "boundary/bridge.h"
#include "boundary/memory.h"
#include "boundary/result_rows.h"
#include "views/lock_tree_picture.h"

extern "C" {
#include "catalog/pg_type.h"
#include "common/ip.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inet.h"

PG_FUNCTION_INFO_V1(pg_lockguard_lock_tree);
}

namespace lockguard::features {

namespace {

/// The columns, in the order of the SQL declaration.
enum Column : int {
    col_tree,
    col_pid,
    col_depth,
    col_root_pid,
    col_path,
    col_blocked_by,
    col_held_by,
    col_blocks,
    col_wait_age,
    col_lock_type,
    col_lock_object,
    col_lock_mode,
    col_blocker_mode,
    col_database,
    col_relation,
    col_state,
    col_xact_age,
    col_state_age,
    col_wait_event_type,
    col_wait_event,
    col_datname,
    col_usename,
    col_application_name,
    col_client_addr,
    col_backend_type,
    col_gid,
    col_deadlock,
    col_query,
    column_count
};

constexpr Oid kTypes[column_count] = {
    TEXTOID, INT4OID,     INT4OID,     INT4OID,     INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID,
    INT4OID, INTERVALOID, TEXTOID,     TEXTOID,     TEXTOID,      TEXTOID,      OIDOID,
    OIDOID,  TEXTOID,     INTERVALOID, INTERVALOID, TEXTOID,      TEXTOID,      NAMEOID,
    NAMEOID, TEXTOID,     INETOID,     TEXTOID,     TEXTOID,      BOOLOID,      TEXTOID,
};

/// The words that many rows share, each turned into a text once. They are found again by their
/// address, so only words that never change can be asked for.
struct SharedWords {
    static constexpr int kCapacity = 32;

    MemoryContext context; // of the texts
    int count;
    const char* words[kCapacity];
    text* texts[kCapacity];

    Datum text_of(const char* word) {
        for (int i = 0; i < count; i++) {
            if (words[i] == word)
                return PointerGetDatum(texts[i]);
        }
        if (count == kCapacity)
            return CStringGetTextDatum(word);
        MemoryContext caller = MemoryContextSwitchTo(context);
        words[count] = word;
        texts[count] = cstring_to_text(word);
        MemoryContextSwitchTo(caller);
        return PointerGetDatum(texts[count++]);
    }
};

/// An int4[] that is filled anew for each row.
class Int4Array {
  public:
    void reserve(std::size_t capacity) {
        array_ = static_cast<ArrayType*>(
            palloc_extended(kHeaderSize + sizeof(int32) * capacity, MCXT_ALLOC_HUGE));
        array_->dataoffset = 0; // no nulls
        array_->elemtype = INT4OID;
    }
    int32* elements() {
        return reinterpret_cast<int32*>(reinterpret_cast<char*>(array_) + kHeaderSize);
    }
    /// Its first `count` elements. An empty array has no dimension.
    Datum first(std::size_t count) {
        SET_VARSIZE(array_, count == 0 ? sizeof(ArrayType) : kHeaderSize + sizeof(int32) * count);
        array_->ndim = count == 0 ? 0 : 1;
        ARR_DIMS(array_)[0] = static_cast<int>(count);
        *(ARR_DIMS(array_) + 1) = 1; // the lower bound
        return PointerGetDatum(array_);
    }

  private:
    static constexpr Size kHeaderSize = ARR_OVERHEAD_NONULLS(1);

    ArrayType* array_;
};

/// Room for the values that differ from row to row: the tuple store copies them, so that each row
/// can use it again.
struct RowRoom {
    Int4Array path;
    Int4Array blocked_by;
    Int4Array held_by;
    SharedWords words;
};

/// One row to be, with what it shares with the others.
struct Row : pg::ResultRow<column_count> {
    Interval ages[column_count]; // what the values of some columns point to
    SharedWords* words;

    explicit Row(SharedWords* shared) : words(shared) {}

    void set_text(Column column, const text* text) {
        if (text != nullptr)
            set(column, PointerGetDatum(text));
    }
    void set_word(Column column, const char* word) {
        if (word != nullptr)
            set(column, words->text_of(word));
    }
    void set_name(Column column, Name name) {
        if (name != nullptr)
            set(column, NameGetDatum(name));
    }
    void set_oid(Column column, Oid oid) { set(column, ObjectIdGetDatum(oid)); }
    /// How long ago that was, to the millisecond: more digits only make the picture wider. Never
    /// negative, though clocks of different processors may disagree.
    void set_age(Column column, TimestampTz since, TimestampTz now) {
        int64 age = std::max<core::Microseconds>(core::age(since, now), 0) / 1000 * 1000;
        ages[column] = {age % USECS_PER_DAY, static_cast<int32>(age / USECS_PER_DAY), 0};
        set(column, IntervalPGetDatum(&ages[column]));
    }
};

/// The pids of a session's blockers, ascending: all of them, and those that hold a conflicting
/// lock.
void set_blockers(Row* row, const core::LockGraph& graph, core::SessionIndex session,
                  RowRoom* room) {
    int32* all = room->blocked_by.elements();
    int32* holder = room->held_by.elements();
    for (const core::Edge& edge : graph.blockers_of(session)) {
        int32 pid = graph.sessions[edge.blocker].pid;
        *all++ = pid;
        if (edge.holds)
            *holder++ = pid;
    }
    std::sort(room->blocked_by.elements(), all);
    std::sort(room->held_by.elements(), holder);
    auto count = [](Int4Array& array, int32* end) {
        return array.first(static_cast<std::size_t>(end - array.elements()));
    };
    row->set(col_blocked_by, count(room->blocked_by, all));
    row->set(col_held_by, count(room->held_by, holder));
}

/// The client's address, as pg_stat_activity has it: null for a Unix-domain socket.
void set_client_addr(Row* row, const SockAddr& address) {
    if (address.addr.ss_family != AF_INET && address.addr.ss_family != AF_INET6)
        return;
    char host[NI_MAXHOST] = "";
    if (pg_getnameinfo_all(&address.addr, address.salen, host, sizeof(host), nullptr, 0,
                           NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    clean_ipv6_addr(address.addr.ss_family, host);
    row->set(col_client_addr, DirectFunctionCall1(inet_in, CStringGetDatum(host)));
}

/// What the session waits for.
void set_wait(Row* row, const TreePicture& picture, const pg::SnapshotSession& session) {
    if (session.first_wait < 0)
        return;
    const pg::SnapshotWait& wait = picture.snapshot.waits[session.first_wait];
    if (wait.safe_snapshot) {
        // No lock of the lock manager's, so pg_locks has no word for it.
        row->set_word(col_lock_type, "safesnapshot");
        row->set_word(col_lock_object, "safe snapshot");
        return;
    }
    row->set_age(col_wait_age, wait.wait_start, picture.now);
    auto type = static_cast<LockTagType>(wait.tag.locktag_type);
    if (type <= LOCKTAG_LAST_TYPE)
        row->set_word(col_lock_type, LockTagTypeNames[type]);
    row->set(col_lock_object, PointerGetDatum(picture.lock_objects[session.first_wait]));
    row->set_word(col_lock_mode, GetLockmodeName(wait.tag.locktag_lockmethodid, wait.mode));
    switch (type) {
    case LOCKTAG_RELATION:
    case LOCKTAG_RELATION_EXTEND:
    case LOCKTAG_PAGE:
    case LOCKTAG_TUPLE:
        row->set_oid(col_relation, wait.tag.locktag_field2);
        [[fallthrough]];
    case LOCKTAG_DATABASE_FROZEN_IDS:
    case LOCKTAG_OBJECT:
    case LOCKTAG_USERLOCK:
    case LOCKTAG_ADVISORY:
        row->set_oid(col_database, wait.tag.locktag_field1);
        break;
    default:
        break;
    }
}

/// What only those may see who may see it in pg_stat_activity.
void set_details(Row* row, const SessionDetails& details, const pg::SnapshotSession& session,
                 TimestampTz now) {
    const pg::BackendStatus& status = details.status;
    row->set_word(col_state, pg::state_name(status.state));
    // A walsender's is not kept up to date, see pg_stat_get_activity().
    if (status.xact_start != 0 && status.type != B_WAL_SENDER)
        row->set_age(col_xact_age, status.xact_start, now);
    if (status.state_start != 0)
        row->set_age(col_state_age, status.state_start, now);
    row->set_word(col_wait_event_type, pgstat_get_wait_event_type(session.wait_event_info));
    row->set_word(col_wait_event, pgstat_get_wait_event(session.wait_event_info));
    set_client_addr(row, status.client_addr);
    const char* backend_type = pg::backend_type_name(status.type, session.id.pid);
    if (status.type != B_BG_WORKER)
        row->set_word(col_backend_type, backend_type);
    else if (backend_type != nullptr)
        row->set(col_backend_type, CStringGetTextDatum(backend_type)); // a copy, of this row's
    row->set_text(col_query, status.query_text);
}

/// Who the session is. A session that ended since the snapshot keeps its place in the tree, with
/// what the snapshot says of it.
void set_session(Row* row, const TreePicture& picture, core::SessionIndex index) {
    const pg::SnapshotSession& session = picture.snapshot.sessions[index];
    const SessionDetails& details = picture.details[index];
    row->set_name(col_datname, details.datname);
    row->set_name(col_usename, details.usename);
    if (details.gid != nullptr) {
        row->set(col_gid, CStringGetTextDatum(details.gid));
        row->set_age(col_xact_age, picture.xact_starts[index], picture.now);
    }
    if (!details.has_status)
        return;
    row->set_text(col_application_name, details.status.application_name_text);
    if (details.visible)
        set_details(row, details, session, picture.now);
    else
        row->set_word(col_query, "<insufficient privilege>");
}

/// Makes the room that any of these rows can need.
void make_room(std::span<const core::ForestRow> rows, RowRoom* room) {
    // No session stands deeper, or has more blockers, than there are rows.
    room->path.reserve(rows.size());
    room->blocked_by.reserve(rows.size());
    room->held_by.reserve(rows.size());
    room->words = {};
    room->words.context = CurrentMemoryContext;
}

void put_rows(const TreePicture& picture, std::span<const core::ForestRow> rows,
              ReturnSetInfo* result) {
    RowRoom room;
    make_room(rows, &room);
    MemoryContext row_context = AllocSetContextCreate(
        CurrentMemoryContext, "pg_lockguard lock_tree row", ALLOCSET_SMALL_SIZES);
    MemoryContext caller = MemoryContextSwitchTo(row_context);
    for (const core::ForestRow& forest_row : rows) {
        CHECK_FOR_INTERRUPTS();
        const pg::SnapshotSession& session = picture.snapshot.sessions[forest_row.session];
        Row row(&room.words);
        // The pids from the root to the row: the rows come depth first, so those above are there.
        room.path.elements()[forest_row.depth] = session.id.pid;

        row.set(col_tree, pg::drawing_value(forest_row.tree));
        row.set(col_pid, Int32GetDatum(session.id.pid));
        row.set(col_depth, Int32GetDatum(static_cast<int32>(forest_row.depth)));
        row.set(col_root_pid, Int32GetDatum(picture.snapshot.sessions[forest_row.root].id.pid));
        row.set(col_path, room.path.first(std::size_t{forest_row.depth} + 1));
        set_blockers(&row, picture.graph, forest_row.session, &room);
        row.set(col_blocks, Int32GetDatum(static_cast<int32>(forest_row.blocks)));
        row.set(col_deadlock, BoolGetDatum(forest_row.deadlock));
        if (forest_row.parent != nullptr && forest_row.parent->mode != core::kNoLockMode)
            row.set_word(col_blocker_mode,
                         GetLockmodeName(DEFAULT_LOCKMETHOD, forest_row.parent->mode));
        set_wait(&row, picture, session);
        set_session(&row, picture, forest_row.session);
        row.put(result);
        MemoryContextReset(row_context);
    }
    MemoryContextSwitchTo(caller);
}

/// How much room to ask for at once for the rows: as much as they take, or more. malloc gives free
/// memory back to the system beyond twice the largest block that it has seen freed. So one block
/// that is larger than all the rest of a call keeps the pages for the next call, which else spends
/// a third of its time on having them mapped again. What is not used of it is never touched.
Size room_for(const TreePicture& picture, std::span<const core::ForestRow> rows) {
    constexpr Size typical = 640; // of a row, without its path, drawing and query
    Size needed = 0;
    for (const core::ForestRow& row : rows) {
        const SessionDetails& details = picture.details[row.session];
        needed += typical + sizeof(int32) * row.depth + row.tree.size();
        if (details.has_status && details.visible)
            needed += VARSIZE(details.status.query_text);
    }
    Size all_the_rest = 128 * 1024 + 1280 * rows.size();
    return std::max(needed, all_the_rest);
}

void lock_tree(FunctionCallInfo fcinfo) {
    TreePicture picture;
    if (!take_picture(&picture))
        return;
    auto rows = pg::call_core(CurrentMemoryContext, [&picture](auto& memory) {
        return core::grow_lock_forest(picture.graph,
                                      {picture.xact_starts, picture.graph.sessions.size()}, memory);
    });
    elog(DEBUG2, "pg_lockguard: copied %d waits, partition locks held for %u ns",
         picture.snapshot.wait_count,
         static_cast<unsigned>(picture.snapshot.locks_held_ns)); // read by test/bench
    pg::open_result_store(fcinfo, room_for(picture, rows));
    put_rows(picture, rows, reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo));
    pg::close_name_lookup(picture.names);
}

} // namespace

} // namespace lockguard::features

/// lock_tree() returns setof record, see docs/reference.md. Errors: 55000 where the SQL
/// declaration is of another version than the library, 53200.
Datum pg_lockguard_lock_tree(PG_FUNCTION_ARGS) {
    using namespace lockguard;
    pg::check_declaration(fcinfo, "lock_tree()", features::kTypes);

    // Blocks of at most 64 kB: the last of those that go on doubling would be half empty.
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pg_lockguard lock_tree",
                              ALLOCSET_DEFAULT_MINSIZE, ALLOCSET_DEFAULT_INITSIZE, 64 * 1024);
    MemoryContext caller = MemoryContextSwitchTo(context);
    features::lock_tree(fcinfo);
    MemoryContextSwitchTo(caller);
    MemoryContextDelete(context);
    return Datum{0};
}
