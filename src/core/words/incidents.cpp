#include "core/words/incidents.h"

#include "core/words/key_values.h"
#include "core/words/text.h"

namespace lockguard::core {

std::string_view incident_log_line(const IncidentLine& line, std::pmr::memory_resource& memory) {
    std::pmr::string text("id=", &memory);
    append_number(text, line.id);
    add_text(text, "end", line.end);
    if (line.part_of != 0)
        add_number(text, "part_of", line.part_of);
    add_duration(text, "lasted_ms", line.lasted);
    add_number(text, "root_pid", line.root_pid);
    add_text(text, "root_gid", line.gid);
    add_text(text, "root_database", line.database);
    add_text(text, "root_user", line.role);
    add_text(text, "root_application", line.application);
    add_text(text, "root_state", line.state);
    add_text(text, "lock", line.lock);
    add_text(text, "mode_held", line.mode_held);
    add_text(text, "mode_wanted", line.mode_wanted);
    add_number(text, "waiters", line.waiters);
    add_number(text, "sessions", line.sessions);
    add_duration(text, "waited_ms", line.waited);
    add_duration(text, "longest_ms", line.longest);
    return keep_text(text, memory);
}

} // namespace lockguard::core
