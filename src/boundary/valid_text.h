// Text of others, made fit for this session's database.
//
// Shared memory holds strings in whatever encoding their writer's database has, and some that
// nobody has ever checked (the type of a background worker). A value that is no valid text in the
// encoding of the reader's database makes upper() and others fail, and can't be sent to a client.
#pragma once

#include <string_view>

#include "boundary/compat.h"

namespace lockguard::pg {

/// Replaces, in place, each byte that is not part of a valid character by "?". Returns the new
/// length; ends it with a NUL where that is shorter. Cheap where there is nothing to do, above all
/// for ASCII. A process without a database takes everything as it is. Never ereports.
///
/// \param text  without a NUL within its length; one stands behind it
/// \param cut   it fills the room that it was in, so that it may end within a character, which is
///              left out then
std::size_t make_valid(char* text, std::size_t length, bool cut = false);

/// The same for a copy in the current memory context.
const char* valid_copy(std::string_view text);

/// Valid text as it can be sent to this session's client: for a character that the client's
/// encoding does not have the server would raise an error in the midst of whatever it is about to
/// say. Returns the text itself, or a copy in the current memory context with "?" in the place of
/// each of these; null for null. Needs a transaction where the encodings differ and the text is not
/// ASCII. May ereport.
const char* text_for_client(const char* text);

} // namespace lockguard::pg
