#include "sessions/command_text.h"

#include <cctype>

#include "boundary/compat.h"

extern "C" {
#include "tcop/cmdtag.h"
}

namespace lockguard::pg {

namespace {

/// Skips white space and comments; an unfinished comment ends the text.
const char* skip_space(const char* text) {
    for (;;) {
        while (isspace(static_cast<unsigned char>(*text)))
            text++;
        const char* end;
        if (strncmp(text, "--", 2) == 0)
            end = strchr(text, '\n');
        else if (strncmp(text, "/*", 2) == 0 && (end = strstr(text + 2, "*/")) != nullptr)
            end += 2;
        else
            return text;
        text = end == nullptr ? text + strlen(text) : end;
    }
}

/// The longest command tag that the text begins with.
CommandTag leading_tag(const char* text) {
    // A command tag has at most four words.
    char words[64] = "";
    std::size_t length = 0;
    CommandTag longest = CMDTAG_UNKNOWN;
    for (int word = 0; word < 4; word++) {
        text = skip_space(text);
        if (word > 0)
            words[length++] = ' ';
        std::size_t start = length;
        while (isalpha(static_cast<unsigned char>(*text)) && length < sizeof(words) - 2)
            words[length++] = pg_toupper(static_cast<unsigned char>(*text++));
        words[length] = '\0';
        if (length == start)
            break;
        CommandTag tag = GetCommandTagEnum(words);
        if (tag != CMDTAG_UNKNOWN)
            longest = tag;
    }
    return longest;
}

/// Does the command only prepare for the one that waits for a lock? No semicolon within it but in a
/// quoted string, and that is rare enough.
bool is_preamble(CommandTag tag) {
    return tag == CMDTAG_BEGIN || tag == CMDTAG_START_TRANSACTION || tag == CMDTAG_SET ||
           tag == CMDTAG_SAVEPOINT;
}

} // namespace

const char* leading_command(const char* query) {
    for (;;) {
        CommandTag tag = leading_tag(query);
        if (tag == CMDTAG_UNKNOWN)
            return nullptr;
        const char* next = is_preamble(tag) ? strchr(query, ';') : nullptr;
        if (next == nullptr || *skip_space(next + 1) == '\0')
            return GetCommandTagName(tag);
        query = next + 1;
    }
}

} // namespace lockguard::pg
