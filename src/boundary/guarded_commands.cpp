#include "boundary/guarded_commands.h"

extern "C" {
#include "parser/scansup.h"
}

namespace lockguard::pg {

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
    CMDTAG_CREATE_TABLE,
    CMDTAG_CREATE_POLICY,
    CMDTAG_ALTER_POLICY,
    CMDTAG_DROP_POLICY,
    CMDTAG_DROP_SCHEMA,
    // From 19 on.
    compat::kRepackCommand,
};

/// All of them.
constexpr char kAllCommands[] = "all";

/// Bit n stands for kSupportedCommands[n].
using CommandSet = uint64;
static_assert(lengthof(kSupportedCommands) < 64);

constexpr CommandSet kEverything = (UINT64CONST(1) << lengthof(kSupportedCommands)) - 1;

CommandSet guarded_commands;

/// Its position in kSupportedCommands, or -1.
int supported_command(CommandTag tag) {
    if (tag == CMDTAG_UNKNOWN)
        return -1;
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
        if (tag == CMDTAG_UNKNOWN)
            continue;
        if (supported[0] != '\0')
            strlcat(supported, ", ", sizeof(supported));
        strlcat(supported, GetCommandTagName(tag), sizeof(supported));
    }
    GUC_check_errdetail("\"%.*s\" is not a command that pg_lockguard can guard.",
                        static_cast<int>(length), name);
    GUC_check_errhint("Separate commands by commas, or say all. Supported are: %s.", supported);
    return false;
}

} // namespace

bool check_ddl_commands(char** value, void** extra, GucSource /*source*/) {
    CommandSet commands = 0;
    const char* rest = *value;
    for (bool first = true, more = true; more; first = false) {
        const char* name = rest;
        std::size_t length = strcspn(rest, ",");
        rest += length;
        more = *rest == ',';
        if (more)
            rest++;
        trim(&name, &length);
        if (length == 0 && first && !more)
            break; // an empty list guards nothing
        char tag_name[64];
        if (length == 0 || length >= sizeof(tag_name))
            return refuse_command(name, length);
        memcpy(tag_name, name, length);
        tag_name[length] = '\0';
        if (pg_strcasecmp(tag_name, kAllCommands) == 0) {
            commands |= kEverything;
            continue;
        }
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

bool is_guarded_command(CommandTag tag) {
    int position = supported_command(tag);
    return position >= 0 && (guarded_commands & (UINT64CONST(1) << position)) != 0;
}

} // namespace lockguard::pg
