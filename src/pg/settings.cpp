#include "pg/settings.h"

extern "C" {
#include "parser/scansup.h"
}

namespace lockguard::pg {

constinit Settings settings = {};

namespace {

/// The commands that the guard knows how to run, in the order in which a HINT lists them.
constexpr CommandTag kSupportedCommands[] = {
    CMDTAG_ALTER_TABLE,
    CMDTAG_ALTER_INDEX,
    CMDTAG_ALTER_VIEW,
    CMDTAG_ALTER_MATERIALIZED_VIEW,
    CMDTAG_ALTER_SEQUENCE,
    CMDTAG_ALTER_FOREIGN_TABLE,
    CMDTAG_DROP_TABLE,
    CMDTAG_DROP_INDEX,
    CMDTAG_DROP_VIEW,
    CMDTAG_DROP_MATERIALIZED_VIEW,
    CMDTAG_DROP_SEQUENCE,
    CMDTAG_DROP_FOREIGN_TABLE,
    CMDTAG_DROP_TRIGGER,
    CMDTAG_DROP_RULE,
    CMDTAG_TRUNCATE_TABLE,
    CMDTAG_CREATE_INDEX,
    CMDTAG_CREATE_TRIGGER,
    CMDTAG_CREATE_RULE,
    CMDTAG_REINDEX,
    CMDTAG_CLUSTER,
    CMDTAG_REFRESH_MATERIALIZED_VIEW,
    CMDTAG_COMMENT,
    CMDTAG_LOCK_TABLE,
};

/// Bit n stands for kSupportedCommands[n].
using CommandSet = uint64;
static_assert(lengthof(kSupportedCommands) <= 64);

CommandSet guarded_commands;

constexpr config_enum_entry kDdlModes[] = {
    {"off", static_cast<int>(DdlMode::off), false},
    {"lock_timeout", static_cast<int>(DdlMode::lock_timeout), false},
    {"low_priority", static_cast<int>(DdlMode::low_priority), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kDdlOnTimeout[] = {
    {"error", static_cast<int>(DdlOnTimeout::error), false},
    {"queue", static_cast<int>(DdlOnTimeout::queue), false},
    {"terminate", static_cast<int>(DdlOnTimeout::terminate), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kBlockerActions[] = {
    {"off", static_cast<int>(BlockerAction::off), false},
    {"log", static_cast<int>(BlockerAction::log), false},
    {"terminate", static_cast<int>(BlockerAction::terminate), false},
    {nullptr, 0, false},
};

/// Its position in kSupportedCommands, or -1.
int supported_command(CommandTag tag) {
    for (std::size_t i = 0; i < lengthof(kSupportedCommands); i++) {
        if (kSupportedCommands[i] == tag)
            return static_cast<int>(i);
    }
    return -1;
}

/// Cuts the white space at both ends of text[0..length).
void trim(const char** text, std::size_t* length) {
    while (*length > 0 && scanner_isspace((*text)[0])) {
        (*text)++;
        (*length)--;
    }
    while (*length > 0 && scanner_isspace((*text)[*length - 1]))
        (*length)--;
}

bool refuse_command(const char* name, std::size_t length) {
    char supported[1024] = "";
    for (CommandTag tag : kSupportedCommands) {
        if (supported[0] != '\0')
            strlcat(supported, ", ", sizeof(supported));
        strlcat(supported, GetCommandTagName(tag), sizeof(supported));
    }
    GUC_check_errdetail("\"%.*s\" is not a command that pg_lockguard can guard.",
                        static_cast<int>(length), name);
    GUC_check_errhint("Separate commands by commas. Supported are: %s.", supported);
    return false;
}

bool check_ddl_commands(char** value, void** extra, GucSource /*source*/) {
    CommandSet commands = 0;
    const char* rest = *value;
    while (*rest != '\0') {
        const char* name = rest;
        std::size_t length = strcspn(rest, ",");
        rest += length;
        bool last = *rest == '\0';
        if (!last)
            rest++;
        trim(&name, &length);
        if (length == 0 && last && commands == 0)
            break; // an empty list guards nothing
        char tag_name[64];
        if (length == 0 || length >= sizeof(tag_name))
            return refuse_command(name, length);
        memcpy(tag_name, name, length);
        tag_name[length] = '\0';
        int position = supported_command(GetCommandTagEnum(tag_name));
        if (position < 0)
            return refuse_command(name, length);
        commands |= UINT64CONST(1) << position;
    }
    auto* result = static_cast<CommandSet*>(compat::guc_extra_alloc(sizeof(CommandSet)));
    if (result == nullptr)
        return false;
    *result = commands;
    *extra = result;
    return true;
}

void assign_ddl_commands(const char* /*value*/, void* extra) {
    guarded_commands = *static_cast<CommandSet*>(extra);
}

} // namespace

bool is_guarded_command(CommandTag tag) {
    int position = supported_command(tag);
    return position >= 0 && (guarded_commands & (UINT64CONST(1) << position)) != 0;
}

void define_settings() {
    DefineCustomEnumVariable(
        "pg_lockguard.ddl_mode", "How guarded statements wait for their locks.",
        "off: as plain PostgreSQL. lock_timeout: with lock_timeout set to "
        "pg_lockguard.ddl_lock_timeout. low_priority: outside of the lock queues, so that nobody "
        "waits behind them.",
        &settings.ddl_mode, static_cast<int>(DdlMode::low_priority), kDdlModes, PGC_SUSET, 0,
        nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.ddl_lock_timeout",
        "The longest that a guarded statement stands in any lock queue at one time.", nullptr,
        &settings.ddl_lock_timeout, 500, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MS, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.ddl_max_wait", "The longest that a guarded statement waits at low priority.",
        "0 means no limit. The session's lock_timeout bounds it as well.", &settings.ddl_max_wait,
        0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomEnumVariable(
        "pg_lockguard.ddl_on_timeout",
        "What a guarded statement does after pg_lockguard.ddl_max_wait.",
        "error: it fails. queue: it waits in the lock queue, as in plain PostgreSQL. terminate: it "
        "ends the sessions that hold the lock, and goes.",
        &settings.ddl_on_timeout, static_cast<int>(DdlOnTimeout::error), kDdlOnTimeout, PGC_SUSET,
        0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable(
        "pg_lockguard.ddl_commands", "The commands that are guarded, by command tag.",
        "A list separated by commas, such as \"ALTER TABLE, DROP TABLE\".", &settings.ddl_commands,
        "ALTER TABLE", PGC_SUSET, 0, check_ddl_commands, assign_ddl_commands, nullptr);

    DefineCustomEnumVariable(
        "pg_lockguard.blocker_action",
        "What the worker does about sessions that sit idle in a transaction and block a request "
        "for ACCESS EXCLUSIVE.",
        "off: nothing. log: say what it would do. terminate: end them.", &settings.blocker_action,
        static_cast<int>(BlockerAction::off), kBlockerActions, PGC_SIGHUP, 0, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.blocker_min_idle",
        "How long a blocker has been idle in its transaction before it may be ended.", nullptr,
        &settings.blocker_min_idle, 60000, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.blocker_min_wait",
        "How long a request for ACCESS EXCLUSIVE has been blocked before a blocker may be ended.",
        nullptr, &settings.blocker_min_wait, 5000, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, nullptr,
        nullptr, nullptr);
    DefineCustomIntVariable("pg_lockguard.worker_interval",
                            "Time between two looks of the worker at the lock table.", nullptr,
                            &settings.worker_interval, 1000, 10, 3600 * 1000, PGC_SIGHUP,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);

    compat::reserve_guc_prefix("pg_lockguard");
}

} // namespace lockguard::pg
