#include "views/lock_tree_picture.h"

#include <algorithm>

#include "boundary/memory.h"
#include "boundary/result_rows.h"

extern "C" {
#include "utils/builtins.h"
}

namespace lockguard::features {

namespace {

/// Reads the status of the sessions that the graph connects, and since when they are in their
/// transactions.
void read_details(TreePicture* picture) {
    pg::LockSnapshot& snapshot = picture->snapshot;
    std::size_t count = picture->graph.sessions.size();
    picture->details = pg::new_zeroed_array<SessionDetails>(count);
    picture->xact_starts = pg::new_array<core::Timestamp>(count);
    std::fill_n(picture->xact_starts, count, core::kUnknownTime);
    for (core::SessionIndex i = 0; i < count; i++) {
        auto edges = picture->graph.blockers_of(i);
        for (const core::Edge& edge : edges)
            picture->details[edge.blocker].in_tree = true;
        if (!edges.empty())
            picture->details[i].in_tree = true;
    }
    constexpr core::SessionIndex ahead = 4;
    for (core::SessionIndex i = 0; i < count; i++) {
        const pg::SnapshotSession& session = snapshot.sessions[i];
        SessionDetails& details = picture->details[i];
        core::Timestamp& xact_start = picture->xact_starts[i];
        if (i + ahead < count)
            pg::prefetch_backend_status(snapshot.sessions[i + ahead].id);
        if (!details.in_tree)
            continue;
        CHECK_FOR_INTERRUPTS();
        if (session.id.pid == 0) {
            pg::PreparedTransaction prepared;
            if (pg::find_prepared_transaction(session.prepared_xid, picture->names, &prepared) &&
                prepared.gid != nullptr) {
                details.gid = prepared.gid;
                xact_start = prepared.prepared_at;
            }
            continue;
        }
        details.has_status = pg::read_backend_status(session.id, &details.status);
        if (!details.has_status)
            continue;
        details.visible = pg::may_see_details(details.status.role, picture->names);
        if (details.status.xact_start != 0)
            xact_start = details.status.xact_start;
    }
}

/// As the type name wants it; null for null.
Name name_of(const char* text) {
    return text == nullptr ? nullptr : DatumGetName(pg::name_value(text));
}

text* object_text(const LOCKTAG& tag, pg::NameLookup names) {
    const char* words = pg::locked_object_text(tag, names);
    text* result = cstring_to_text(words);
    pfree(const_cast<char*>(words)); // there may be thousands
    return result;
}

/// Looks up the names of databases, roles and locked objects. Neighbours mostly have the same.
void read_names(TreePicture* picture) {
    const pg::LockSnapshot& snapshot = picture->snapshot;
    std::size_t count = picture->graph.sessions.size();
    for (std::size_t i = 0; i < count; i++) {
        const pg::SnapshotSession& session = snapshot.sessions[i];
        const pg::SnapshotSession* before = i == 0 ? nullptr : &snapshot.sessions[i - 1];
        SessionDetails& details = picture->details[i];
        details.datname = before != nullptr && before->database == session.database
                              ? picture->details[i - 1].datname
                              : name_of(pg::database_name(session.database, picture->names));
        details.usename = before != nullptr && before->role == session.role
                              ? picture->details[i - 1].usename
                              : name_of(pg::role_name(session.role, picture->names));
    }
    picture->lock_objects =
        pg::new_zeroed_array<text*>(static_cast<std::size_t>(snapshot.wait_count));
    for (int i = 0; i < snapshot.wait_count; i++) {
        const pg::SnapshotWait& wait = snapshot.waits[i];
        if (i > 0 && memcmp(&wait.tag, &snapshot.waits[i - 1].tag, sizeof(LOCKTAG)) == 0)
            picture->lock_objects[i] = picture->lock_objects[i - 1];
        else if (!wait.safe_snapshot)
            picture->lock_objects[i] = object_text(wait.tag, picture->names);
    }
}

} // namespace

bool take_picture(TreePicture* picture) {
    if (!pg::take_wait_graph(picture))
        return false;
    picture->names = pg::open_name_lookup();
    read_details(picture);
    read_names(picture);
    picture->now = GetCurrentTimestamp();
    return true;
}

} // namespace lockguard::features
