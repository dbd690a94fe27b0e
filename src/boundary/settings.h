// The GUCs, as plain variables: read them, never write them.
#pragma once

#include "core/name_pattern.h"

#include <span>

#include "boundary/compat.h"

namespace lockguard::pg {

enum class DdlMode : int { off, lock_timeout, low_priority };
enum class DdlOnTimeout : int { error, queue, terminate };
enum class DdlSessionLockTimeout : int { wait, stall };
enum class BlockerAction : int { off, log, terminate };
enum class BlockerActiveAction : int { off, log, cancel };
enum class LoggedEvents : int { none, actions, all };
enum class DdlHeavy : int { allow, warn, refuse };

/// The most that pg_lockguard.track_statements can be.
inline constexpr int kMostTrackedStatements = 16;

struct Settings {
    // The guard (SUSET)
    // From 16 a server built with assertions wants an enum's variable to begin with its default.
    int ddl_mode = static_cast<int>(DdlMode::low_priority);
    int ddl_lock_timeout; // ms
    int ddl_max_stall;    // ms; 0: no limit
    int ddl_max_wait;     // ms; 0: no limit
    int ddl_on_timeout;   // a DdlOnTimeout
    char* ddl_commands;
    // Heavy work (SUSET)
    int ddl_heavy;                // a DdlHeavy
    int ddl_heavy_min_size;       // kB
    char* ddl_heavy_confirm;      // USERSET: the relation, as the error writes it
    int preview_max_hold;         // ms
    int ddl_notice_interval;      // ms; 0: never (USERSET)
    int ddl_session_lock_timeout; // a DdlSessionLockTimeout (USERSET)
    // The worker (SIGHUP)
    int blocker_action;   // a BlockerAction
    int blocker_min_idle; // ms
    int blocker_min_wait; // ms
    int worker_interval;  // ms
    bool blocker_stalled_clients;
    char* blocker_request_modes; // see counting_request_modes() in boundary/request_modes
    int blocker_active_action;   // a BlockerActiveAction
    int blocker_min_active;      // ms
    bool blocker_concurrently;
    int max_terminations_per_minute;
    char* exempt_roles;        // a list of identifiers, as SplitIdentifierString() reads it
    char* exempt_databases;    // likewise
    char* exempt_applications; // read it as:
    std::span<const core::PatternUnit> exempt_application_patterns;
    // The record
    int log_events;        // a LoggedEvents (SIGHUP)
    int events_max;        // set at server start
    int incident_min_wait; // ms; -1: no incidents (SIGHUP)
    int log_incidents;     // ms: the shortest that is logged; -1: none (SIGHUP)
    int incidents_max;     // set at server start
    int waits_max;         // likewise
    int track_statements;  // likewise; 0: none are kept
    // Of the guard alone, and hidden: what it has a statement's parallel workers know.
    int parallel_log_level;
    // The victim's side (SUSET). Of another session: see protection_of() in shmem/protections.
    bool protected_session;

    DdlMode mode() const { return static_cast<DdlMode>(ddl_mode); }
    DdlOnTimeout on_timeout() const { return static_cast<DdlOnTimeout>(ddl_on_timeout); }
    DdlHeavy heavy() const { return static_cast<DdlHeavy>(ddl_heavy); }
    DdlSessionLockTimeout session_lock_timeout() const {
        return static_cast<DdlSessionLockTimeout>(ddl_session_lock_timeout);
    }
    BlockerAction action() const { return static_cast<BlockerAction>(blocker_action); }
    BlockerActiveAction active_action() const {
        return static_cast<BlockerActiveAction>(blocker_active_action);
    }
    /// Does the worker look for blockers at all?
    bool looks_for_blockers() const {
        return action() != BlockerAction::off || active_action() != BlockerActiveAction::off;
    }
    LoggedEvents logged_events() const { return static_cast<LoggedEvents>(log_events); }
};

extern Settings settings;

/// Who is told of changes.
struct SettingHooks {
    /// pg_lockguard.protected has been assigned in this process. From an assign hook: never
    /// ereports.
    ///
    /// \param whole_server  the value comes from where every process of the server reads the same
    void (*protection_changed)(bool whole_server, bool value);
    /// The same of pg_lockguard.ddl_max_stall (ms).
    void (*max_stall_changed)(int value);
    /// The same of pg_lockguard.parallel_log_level.
    void (*parallel_log_level_changed)(int value);
};

/// Defines every pg_lockguard.* setting: each is one block in settings.cpp. Called once, from
/// _PG_init.
void define_settings(const SettingHooks& setting_hooks);

} // namespace lockguard::pg
