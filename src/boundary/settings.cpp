#include "boundary/settings.h"

#include "core/fuses.h"
#include "core/name_pattern.h"
#include "boundary/guarded_commands.h"
#include "boundary/request_modes.h"

extern "C" {
#include "utils/varlena.h"
}

namespace lockguard::pg {

constinit Settings settings = {};

namespace {

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

constexpr config_enum_entry kDdlSessionLockTimeout[] = {
    {"wait", static_cast<int>(DdlSessionLockTimeout::wait), false},
    {"stall", static_cast<int>(DdlSessionLockTimeout::stall), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kBlockerActions[] = {
    {"off", static_cast<int>(BlockerAction::off), false},
    {"log", static_cast<int>(BlockerAction::log), false},
    {"terminate", static_cast<int>(BlockerAction::terminate), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kBlockerActiveActions[] = {
    {"off", static_cast<int>(BlockerActiveAction::off), false},
    {"log", static_cast<int>(BlockerActiveAction::log), false},
    {"cancel", static_cast<int>(BlockerActiveAction::cancel), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kDdlHeavy[] = {
    {"allow", static_cast<int>(DdlHeavy::allow), false},
    {"warn", static_cast<int>(DdlHeavy::warn), false},
    {"refuse", static_cast<int>(DdlHeavy::refuse), false},
    {nullptr, 0, false},
};

constexpr config_enum_entry kLoggedEvents[] = {
    {"none", static_cast<int>(LoggedEvents::none), false},
    {"actions", static_cast<int>(LoggedEvents::actions), false},
    {"all", static_cast<int>(LoggedEvents::all), false},
    {nullptr, 0, false},
};

/// Whether such roles or databases exist can't be asked here: the postmaster reads no catalogs.
bool check_identifiers(char** value, void** /*extra*/, GucSource /*source*/) {
    char* copy = pstrdup(*value);
    List* names = NIL;
    bool valid = SplitIdentifierString(copy, ',', &names);
    if (!valid) {
        GUC_check_errdetail("The list has a fault in its syntax.");
        GUC_check_errhint("Separate names by commas, and put double quotes around names that are "
                          "not plain identifiers.");
    }
    list_free(names);
    pfree(copy);
    return valid;
}

/// A list of patterns, read: what the check hook hands to the assign hook.
struct ParsedPatterns {
    std::size_t count;
    core::PatternUnit units[FLEXIBLE_ARRAY_MEMBER];
};

bool check_patterns(char** value, void** extra, GucSource /*source*/) {
    const std::string_view list = *value;
    std::string_view fault = core::fault_of_patterns(list);
    if (!fault.empty()) {
        GUC_check_errdetail("%s", fault.data());
        GUC_check_errhint("Separate patterns by commas; * stands for any characters; put double "
                          "quotes around what is to be taken as it is.");
        return false;
    }
    const std::size_t room = list.size() + 1;
    auto* parsed = static_cast<ParsedPatterns*>(compat::guc_extra_alloc(
        offsetof(ParsedPatterns, units) + room * sizeof(core::PatternUnit)));
    if (parsed == nullptr)
        return false;
    parsed->count = core::parse_patterns(list, {parsed->units, room});
    *extra = parsed;
    return true;
}

void assign_exempt_applications(const char* /*value*/, void* extra) {
    const auto* parsed = static_cast<const ParsedPatterns*>(extra);
    settings.exempt_application_patterns = {parsed->units, parsed->count};
}

/// Does the value come from where every process of the server reads the same: the configuration
/// files, the server's command line, the default?
bool is_for_whole_server(GucSource source) {
    return source <= PGC_S_ARGV;
}

/// Notes where the value comes from, for the assign hook, which is not told.
bool check_protected(bool* /*value*/, void** extra, GucSource source) {
    auto* whole_server = static_cast<bool*>(compat::guc_extra_alloc(sizeof(bool)));
    if (whole_server == nullptr)
        return false;
    *whole_server = is_for_whole_server(source);
    *extra = whole_server;
    return true;
}

SettingHooks hooks;

/// Other processes can't see this session's settings, so it tells them.
void assign_protected(bool value, void* extra) {
    hooks.protection_changed(*static_cast<bool*>(extra), value);
}

/// A transaction that holds the locks of a guarded statement is watched by another process.
void assign_max_stall(int value, void* /*extra*/) {
    hooks.max_stall_changed(value);
}

/// In a parallel worker it is what the session that it works for has.
void assign_parallel_log_level(int value, void* /*extra*/) {
    hooks.parallel_log_level_changed(value);
}

/// What the guard sets for itself, as a setting because those are handed to parallel workers.
void define_hidden_settings() {
    DefineCustomIntVariable("pg_lockguard.parallel_log_level",
                            "What log_min_messages would be in parallel workers of a guarded "
                            "statement.",
                            "Set by the guard for the length of a statement. -1: as it is.",
                            &settings.parallel_log_level, -1, -1, INT_MAX, PGC_SUSET,
                            GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, nullptr,
                            assign_parallel_log_level, nullptr);
}

/// How guarded statements wait.
void define_guard_settings() {
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
        "pg_lockguard.ddl_max_stall",
        "The longest that others are kept waiting by a guarded statement while it runs, and by its "
        "transaction's locks afterwards.",
        "0 means no limit. Nothing is cut short while nobody waits.", &settings.ddl_max_stall, 5000,
        0, INT_MAX, PGC_SUSET, GUC_UNIT_MS, nullptr, assign_max_stall, nullptr);
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
    DefineCustomIntVariable(
        "pg_lockguard.ddl_notice_interval",
        "Time between two NOTICEs of a guarded statement that waits at low priority.",
        "The first comes after deadlock_timeout. 0: none.", &settings.ddl_notice_interval, 10000, 0,
        INT_MAX, PGC_USERSET, GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomEnumVariable(
        "pg_lockguard.ddl_session_lock_timeout",
        "What the session's lock_timeout bounds of a guarded statement at low priority.",
        "wait: the whole wait. stall: each stay in a lock queue, and no more.",
        &settings.ddl_session_lock_timeout, static_cast<int>(DdlSessionLockTimeout::wait),
        kDdlSessionLockTimeout, PGC_USERSET, 0, nullptr, nullptr, nullptr);
}

/// What is told, or refused, of statements that rewrite, scan or index a relation.
void define_heavy_settings() {
    DefineCustomEnumVariable(
        "pg_lockguard.ddl_heavy",
        "What a guarded statement does that is about to rewrite, scan or index a large relation "
        "while it stops readers or writers.",
        "allow: goes on. warn: says so. refuse: fails, before the first page is read.",
        &settings.ddl_heavy, static_cast<int>(DdlHeavy::allow), kDdlHeavy, PGC_SUSET, 0, nullptr,
        nullptr, nullptr);
    DefineCustomIntVariable("pg_lockguard.ddl_heavy_min_size",
                            "The size from which on a relation is large to pg_lockguard.ddl_heavy.",
                            nullptr, &settings.ddl_heavy_min_size, 1024 * 1024, 0, INT_MAX,
                            PGC_SUSET, GUC_UNIT_KB, nullptr, nullptr, nullptr);
    DefineCustomStringVariable(
        "pg_lockguard.ddl_heavy_confirm",
        "The relations whose heavy work is meant: pg_lockguard.ddl_heavy lets it pass.",
        "A list separated by commas, schema-qualified, as the error message has them, such as "
        "public.orders. For SET LOCAL.",
        &settings.ddl_heavy_confirm, "", PGC_USERSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.preview_max_hold", "The longest that ddl_preview() runs the statement.",
        "Served at the next check for interrupts after that.", &settings.preview_max_hold, 20, 1,
        60 * 1000, PGC_SUSET, GUC_UNIT_MS, nullptr, nullptr, nullptr);
}

/// Whom the worker ends, and when.
void define_worker_settings() {
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
        "How long a request has been blocked before something is done about a blocker.", nullptr,
        &settings.blocker_min_wait, 5000, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr,
        nullptr);
    DefineCustomIntVariable("pg_lockguard.worker_interval",
                            "Time between two looks of the worker at the lock table.", nullptr,
                            &settings.worker_interval, 1000, 10, 3600 * 1000, PGC_SIGHUP,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);

    DefineCustomBoolVariable(
        "pg_lockguard.blocker_stalled_clients",
        "Whether a blocker counts as idle while it waits for its client in a statement.",
        "Such as COPY FROM STDIN whose client sends nothing any more.",
        &settings.blocker_stalled_clients, false, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable(
        "pg_lockguard.blocker_request_modes", "Whose blockers the worker looks for, by lock mode.",
        "A list of the modes in which somebody waits for a relation, separated by commas.",
        &settings.blocker_request_modes, "AccessExclusiveLock", PGC_SIGHUP, 0, check_request_modes,
        assign_request_modes, nullptr);
    DefineCustomEnumVariable(
        "pg_lockguard.blocker_active_action",
        "What the worker does about statements that block such a request for too long.",
        "off: nothing. log: say what it would do. cancel: cancel them.",
        &settings.blocker_active_action, static_cast<int>(BlockerActiveAction::off),
        kBlockerActiveActions, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("pg_lockguard.blocker_min_active",
                            "How long a blocker's statement has run before it may be cancelled.",
                            nullptr, &settings.blocker_min_active, 300000, 0, INT_MAX, PGC_SIGHUP,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomBoolVariable("pg_lockguard.blocker_concurrently",
                             "Whether sessions count as blockers whose transaction CREATE INDEX "
                             "CONCURRENTLY and the like wait for.",
                             "They wait for transactions to end, not for a relation.",
                             &settings.blocker_concurrently, false, PGC_SIGHUP, 0, nullptr, nullptr,
                             nullptr);
    DefineCustomIntVariable("pg_lockguard.max_terminations_per_minute",
                            "The most sessions that the worker ends, or whose statements it "
                            "cancels, in any minute.",
                            "Beyond that it only logs.", &settings.max_terminations_per_minute, 10,
                            0, core::kMostTerminationsPerMinute, PGC_SIGHUP, 0, nullptr, nullptr,
                            nullptr);
}

/// Whom it never ends.
void define_exemptions() {
    DefineCustomStringVariable("pg_lockguard.exempt_roles",
                               "Roles, and roles whose members, the worker never ends.",
                               "A list of names, separated by commas.", &settings.exempt_roles, "",
                               PGC_SIGHUP, 0, check_identifiers, nullptr, nullptr);
    DefineCustomStringVariable("pg_lockguard.exempt_databases",
                               "Databases in which the worker ends nobody.",
                               "A list of names, separated by commas.", &settings.exempt_databases,
                               "", PGC_SIGHUP, 0, check_identifiers, nullptr, nullptr);
    DefineCustomStringVariable(
        "pg_lockguard.exempt_applications",
        "Applications, by application_name, that the worker never ends.",
        "A list of patterns, separated by commas, where * stands for any characters.",
        &settings.exempt_applications, "pg_dump*", PGC_SIGHUP, 0, check_patterns,
        assign_exempt_applications, nullptr);
    DefineCustomBoolVariable("pg_lockguard.protected",
                             "Whether the worker leaves this session alone.",
                             "For ALTER ROLE ... SET, above all.", &settings.protected_session,
                             false, PGC_SUSET, 0, check_protected, assign_protected, nullptr);
}

/// Of what can only be set at server start. In a session that loads the library itself it means
/// nothing, but a configuration file may contain it.
GucContext start_context() {
    return process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;
}

/// What is recorded.
void define_record_settings() {
    DefineCustomEnumVariable("pg_lockguard.log_events",
                             "Which events are also written to the server log, one line each.",
                             "none; actions: what the worker and the guard did to others; all.",
                             &settings.log_events, static_cast<int>(LoggedEvents::none),
                             kLoggedEvents, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.events_max", "How many events pg_lockguard_events shows at most.",
        "The room is taken in shared memory, about 3.1 kB each.", &settings.events_max, 1000, 10,
        100000, start_context(), 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("pg_lockguard.track_statements",
                            "How many statements of each session's present transaction are kept.",
                            "For pg_lockguard_statements(). 0: none. The room is taken in shared "
                            "memory, about a quarter of a kB each for each session.",
                            &settings.track_statements, 0, 0, kMostTrackedStatements,
                            start_context(), 0, nullptr, nullptr, nullptr);
}

/// Incidents and accumulated waits.
void define_incident_settings() {
    // As for pg_lockguard.events_max.
    const GucContext at_start =
        process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;
    DefineCustomIntVariable("pg_lockguard.incident_min_wait",
                            "How long a session has waited behind another one for that to be an "
                            "incident.",
                            "-1: the worker does not look for incidents, nor for waits.",
                            &settings.incident_min_wait, 1000, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS,
                            nullptr, nullptr, nullptr);
    DefineCustomIntVariable("pg_lockguard.log_incidents",
                            "The shortest incident that is written to the server log at its end.",
                            "-1: none is.", &settings.log_incidents, 10000, -1, INT_MAX, PGC_SIGHUP,
                            GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.incidents_max", "How many incidents pg_lockguard_incidents shows at most.",
        "The room is taken in shared memory, about 13 kB each.", &settings.incidents_max, 200, 10,
        10000, at_start, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "pg_lockguard.waits_max", "How many entries pg_stat_lockguard_waits has at most.",
        "The room is taken in shared memory, about 120 bytes each.", &settings.waits_max, 1000, 10,
        100000, at_start, 0, nullptr, nullptr, nullptr);
}

} // namespace

void define_settings(const SettingHooks& setting_hooks) {
    hooks = setting_hooks;
    define_guard_settings();
    define_heavy_settings();
    define_worker_settings();
    define_exemptions();
    define_record_settings();
    define_incident_settings();
    define_hidden_settings();
    MarkGUCPrefixReserved("pg_lockguard");
}

} // namespace lockguard::pg
