#include "guard/statement_options.h"

extern "C" {
#include "commands/defrem.h"
}

namespace lockguard::pg {

bool has_option(const List* options, const char* name) {
    bool is_on = false;
    for (int i = 0; i < list_length(options); i++) {
        auto* option = static_cast<DefElem*>(list_nth(options, i));
        if (strcmp(option->defname, name) == 0)
            is_on = defGetBoolean(option);
    }
    return is_on;
}

} // namespace lockguard::pg
