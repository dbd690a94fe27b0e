// A NOTICE to a client that may not be reading.
#pragma once

#include "boundary/compat.h"

namespace lockguard::pg {

/// C strings; detail and hint may be null.
struct ClientNotice {
    const char* message;
    const char* detail;
    const char* hint;
};

/// Would anybody read a NOTICE of this session now: its client (client_min_messages), or the server
/// log (log_min_messages)? Never ereports.
bool is_notice_wanted();

/// Raises a NOTICE, which reaches the client at once, whatever else has been written to it before
/// and was not sent yet. A plain one waits until the client has read it; this one waits for nobody:
/// what the connection does not take now stays with the session, and while anything does, further
/// ones are for the server log alone. So the session keeps one of them at most. Interrupts are
/// served afterwards, as with any NOTICE. May ereport.
void send_notice(const ClientNotice& notice);

} // namespace lockguard::pg
