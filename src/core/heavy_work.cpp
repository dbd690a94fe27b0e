#include "core/heavy_work.h"

#include <algorithm>
#include <array>
#include <string>

namespace lockguard::core {

namespace {

struct KnownMessage {
    std::string_view id;
    HeavyMessage message;
};

constexpr std::array kKnownMessages = {
    KnownMessage{"rewriting table \"%s\"", {HeavyKind::rewrite, HeavySubject::table}},
    KnownMessage{"verifying table \"%s\"", {HeavyKind::scan, HeavySubject::table}},
    KnownMessage{"building index \"%s\" on table \"%s\" serially",
                 {HeavyKind::build_index, HeavySubject::index_and_table}},
    KnownMessage{"building index \"%s\" on table \"%s\" with request for %d parallel workers",
                 {HeavyKind::build_index, HeavySubject::index_and_table}},
    KnownMessage{"validating foreign key constraint \"%s\"",
                 {HeavyKind::validate_foreign_key, HeavySubject::constraint}},
    KnownMessage{"clustering \"%s.%s\" using index scan on \"%s\"",
                 {HeavyKind::rewrite, HeavySubject::schema_table}},
    KnownMessage{"clustering \"%s.%s\" using sequential scan and sort",
                 {HeavyKind::rewrite, HeavySubject::schema_table}},
    KnownMessage{"vacuuming \"%s.%s\"", {HeavyKind::rewrite, HeavySubject::schema_table}},
    KnownMessage{"repacking \"%s.%s\" using index scan on \"%s\"",
                 {HeavyKind::rewrite, HeavySubject::schema_table}},
    KnownMessage{"repacking \"%s.%s\" using sequential scan and sort",
                 {HeavyKind::rewrite, HeavySubject::schema_table}},
    KnownMessage{"repacking \"%s.%s\" in physical order",
                 {HeavyKind::rewrite, HeavySubject::schema_table}},
};

/// What the statement would do, for a sentence with "would".
const char* verb_of(HeavyKind kind) {
    switch (kind) {
    case HeavyKind::rewrite:
        return "rewrite ";
    case HeavyKind::scan:
        return "scan ";
    case HeavyKind::build_index:
        return "build an index on ";
    case HeavyKind::validate_foreign_key:
        return "validate a foreign key of ";
    case HeavyKind::run_query:
        return "run a query for ";
    case HeavyKind::none:
        break;
    }
    return "work on ";
}

/// Does the message begin with `before`, and go on with this name and a closing quote?
bool has_quoted_behind(std::string_view message, std::string_view before, std::string_view name) {
    if (!message.starts_with(before))
        return false;
    std::string_view rest = message.substr(before.size());
    return rest.starts_with(name) && rest.substr(name.size()).starts_with('"');
}

std::string_view keep(const std::pmr::string& text, std::pmr::memory_resource& memory) {
    return keep_text(text, memory);
}

} // namespace

HeavyMessage heavy_message(std::string_view id) {
    for (const KnownMessage& known : kKnownMessages) {
        if (known.id == id)
            return known.message;
    }
    return {HeavyKind::none, HeavySubject::table};
}

bool names_subject(HeavySubject subject, std::string_view message, std::string_view name,
                   std::string_view outer) {
    switch (subject) {
    case HeavySubject::table:
        // The whole of what stands between the quotes.
        for (std::string_view before : {"rewriting table \"", "verifying table \""}) {
            if (has_quoted_behind(message, before, name) &&
                message.size() == before.size() + name.size() + 1)
                return true;
        }
        return false;
    case HeavySubject::index_and_table: {
        constexpr std::string_view kBefore = "building index \"";
        constexpr std::string_view kBetween = " on table \"";
        if (!has_quoted_behind(message, kBefore, name))
            return false;
        return has_quoted_behind(message.substr(kBefore.size() + name.size() + 1), kBetween, outer);
    }
    case HeavySubject::constraint:
        return named_constraint(message) == name;
    case HeavySubject::schema_table: {
        // These messages are translated: what stands before the name is not known.
        const std::size_t length = outer.size() + 1 + name.size();
        for (std::size_t at = message.find(outer); at != std::string_view::npos;
             at = message.find(outer, at + 1)) {
            std::string_view rest = message.substr(at);
            if (at > 0 && rest.size() > length && rest[outer.size()] == '.' &&
                rest.substr(outer.size() + 1).starts_with(name))
                return true;
        }
        return false;
    }
    }
    return false;
}

std::string_view named_constraint(std::string_view message) {
    constexpr std::string_view kBefore = "validating foreign key constraint \"";
    if (!message.starts_with(kBefore) || !message.ends_with('"') ||
        message.size() == kBefore.size())
        return {};
    return message.substr(kBefore.size(), message.size() - kBefore.size() - 1);
}

const char* action_name(HeavyKind kind) {
    switch (kind) {
    case HeavyKind::rewrite:
        return "rewrite";
    case HeavyKind::scan:
        return "scan";
    case HeavyKind::build_index:
        return "build index";
    case HeavyKind::validate_foreign_key:
        return "validate foreign key";
    case HeavyKind::run_query:
        return "run query";
    case HeavyKind::none:
        break;
    }
    return "catalog only";
}

std::string_view work_text(HeavyKind kind, std::string_view relation,
                           std::pmr::memory_resource& memory) {
    std::pmr::string text(&memory);
    switch (kind) {
    case HeavyKind::rewrite:
        text = "rewriting ";
        break;
    case HeavyKind::scan:
        text = "scanning ";
        break;
    case HeavyKind::build_index:
        text = "building an index on ";
        break;
    case HeavyKind::validate_foreign_key:
        text = "validating a foreign key of ";
        break;
    case HeavyKind::run_query:
        text = "running the query of ";
        break;
    case HeavyKind::none:
        text = "working on ";
        break;
    }
    text += relation;
    return keep(text, memory);
}

std::string_view size_text(std::int64_t bytes, std::pmr::memory_resource& memory) {
    constexpr std::array<std::string_view, 5> kUnits = {" bytes", " kB", " MB", " GB", " TB"};
    std::int64_t unit = 1;
    std::size_t which = 0;
    while (which + 1 < kUnits.size() && bytes / unit >= 1024) {
        unit *= 1024;
        which++;
    }
    std::pmr::string text(&memory);
    const std::int64_t whole = bytes / unit;
    // Rounded down, as durations are.
    const std::int64_t tenths = which == 0 ? 0 : bytes % unit * 10 / unit;
    text += std::to_string(whole);
    if (whole < 10 && tenths > 0) {
        text += '.';
        text += static_cast<char>('0' + tenths);
    }
    text += kUnits[which];
    return keep(text, memory);
}

Stopped stopped_by(int lock_mode) {
    constexpr int kShareUpdateExclusive = 4;
    constexpr int kAccessExclusive = 8;
    if (lock_mode <= 0)
        return Stopped::nobody;
    if (lock_mode <= kShareUpdateExclusive)
        return Stopped::ddl;
    return lock_mode < kAccessExclusive ? Stopped::writers : Stopped::everybody;
}

const char* stopped_text(Stopped stopped) {
    switch (stopped) {
    case Stopped::nobody:
        return nullptr;
    case Stopped::ddl:
        return "ddl";
    case Stopped::writers:
        return "writers";
    case Stopped::everybody:
        return "readers and writers";
    }
    return nullptr;
}

bool confirms(std::string_view list, std::string_view relation) {
    constexpr std::string_view kSpace = " \t\r\n";
    while (!list.empty()) {
        // A comma between double quotes belongs to a name.
        std::size_t end = 0;
        for (bool quoted = false; end < list.size() && (quoted || list[end] != ','); end++)
            quoted = quoted != (list[end] == '"');
        std::string_view name = list.substr(0, end);
        name.remove_prefix(std::min(name.find_first_not_of(kSpace), name.size()));
        name.remove_suffix(name.size() - (name.find_last_not_of(kSpace) + 1));
        if (!name.empty() && name == relation)
            return true;
        list.remove_prefix(std::min(end + 1, list.size()));
    }
    return false;
}

std::string_view heavy_message_text(const HeavyStatement& statement,
                                    std::pmr::memory_resource& memory) {
    std::pmr::string text(statement.command, &memory);
    text += " would ";
    text += verb_of(statement.kind);
    text += statement.relation;
    text += " while it stops ";
    text += stopped_text(statement.stopped);
    return keep(text, memory);
}

std::string_view heavy_detail_text(const HeavyStatement& statement,
                                   std::pmr::memory_resource& memory) {
    std::pmr::string text(statement.relation, &memory);
    text += " has ";
    text += size_text(statement.size, memory);
    text += ", more than pg_lockguard.ddl_heavy_min_size (";
    text += size_text(statement.min_size, memory);
    text += "). ";
    text += statement.lock_mode;
    text += " on ";
    text += statement.locked;
    text += " would be held all that time.";
    return keep(text, memory);
}

std::string_view heavy_hint_text(const HeavyStatement& statement,
                                 std::pmr::memory_resource& memory) {
    std::pmr::string text(&memory);
    if (!statement.advice.empty()) {
        text += statement.advice;
        text += '\n';
    }
    text += "If that is meant, say so in the same transaction: SET LOCAL "
            "pg_lockguard.ddl_heavy_confirm = '";
    for (char c : statement.relation) {
        if (c == '\'')
            text += '\'';
        text += c;
    }
    text += "';";
    return keep(text, memory);
}

} // namespace lockguard::core
