// What a statement's text says of it, read by a small scanner: for text of other sessions, which
// nobody parses here.
#pragma once

namespace lockguard::pg {

/// Command tag that a query text begins with, such as "ALTER TABLE", after any BEGIN and SET; null
/// where it does not begin with one. Gives away nothing else of the text.
const char* leading_command(const char* query);

} // namespace lockguard::pg
