// The GUCs, as plain variables: read them, never write them.
#pragma once

#include "pg/compat.h"

namespace lockguard::pg {

enum class DdlMode : int { off, lock_timeout };
enum class BlockerAction : int { off, log, terminate };

struct Settings {
    // The guard (SUSET)
    // From 16 a server built with assertions wants an enum's variable to begin with its default.
    int ddl_mode = static_cast<int>(DdlMode::lock_timeout);
    int ddl_lock_timeout; // ms
    char* ddl_commands;
    // The worker (SIGHUP)
    int blocker_action;   // a BlockerAction
    int blocker_min_idle; // ms
    int blocker_min_wait; // ms
    int worker_interval;  // ms

    DdlMode mode() const { return static_cast<DdlMode>(ddl_mode); }
    BlockerAction action() const { return static_cast<BlockerAction>(blocker_action); }
};

extern Settings settings;

/// Defines every pg_lockguard.* setting. Called once, from _PG_init.
void define_settings();

/// Does pg_lockguard.ddl_commands name this command tag?
bool is_guarded_command(CommandTag tag);

} // namespace lockguard::pg
