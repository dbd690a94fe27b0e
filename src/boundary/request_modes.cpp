#include "boundary/request_modes.h"

extern "C" {
#include "parser/scansup.h"
}

namespace lockguard::pg {

namespace {

/// What scanner_isspace() takes for white space.
constexpr const char* kSpace = " \t\n\r\f\v";

core::ModeMask counting_modes;

/// The modes whose requests may count: those that stop all writers.
constexpr LOCKMODE kRequestModes[] = {ShareLock, ShareRowExclusiveLock, ExclusiveLock,
                                      AccessExclusiveLock};

/// By its name in pg_locks; NoLock where it is none of kRequestModes.
LOCKMODE request_mode(const char* name, std::size_t length) {
    for (LOCKMODE mode : kRequestModes) {
        const char* known = GetLockmodeName(DEFAULT_LOCKMETHOD, mode);
        if (strlen(known) == length && pg_strncasecmp(known, name, length) == 0)
            return mode;
    }
    return NoLock;
}

} // namespace

core::ModeMask counting_request_modes() {
    return counting_modes;
}

bool check_request_modes(char** value, void** extra, GucSource /*source*/) {
    core::ModeMask modes = 0;
    const char* rest = *value;
    bool last = rest[strspn(rest, kSpace)] == '\0';
    while (!last) {
        std::size_t length = strcspn(rest, ",");
        last = rest[length] == '\0';
        const char* name = rest + strspn(rest, kSpace);
        const char* end = rest + length;
        rest = last ? end : end + 1;
        while (end > name && scanner_isspace(end[-1]))
            end--;
        length = end > name ? static_cast<std::size_t>(end - name) : 0;
        LOCKMODE mode = request_mode(name, length);
        if (mode == NoLock) {
            GUC_check_errdetail("\"%.*s\" is not a lock mode whose requests can count.",
                                static_cast<int>(length), name);
            GUC_check_errhint("Separate modes by commas. Possible are: ShareLock, "
                              "ShareRowExclusiveLock, ExclusiveLock, AccessExclusiveLock.");
            return false;
        }
        modes |= core::mode_bit(static_cast<core::LockMode>(mode));
    }
    auto* result = static_cast<core::ModeMask*>(compat::guc_extra_alloc(sizeof(core::ModeMask)));
    if (result == nullptr)
        return false;
    *result = modes;
    *extra = result;
    return true;
}

void assign_request_modes(const char* /*value*/, void* extra) {
    counting_modes = *static_cast<core::ModeMask*>(extra);
}

} // namespace lockguard::pg
