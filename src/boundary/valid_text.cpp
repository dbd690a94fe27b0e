#include "boundary/valid_text.h"

#include <algorithm>

extern "C" {
#include "catalog/pg_conversion.h"
#include "catalog/pg_namespace.h"
#include "mb/pg_wchar.h"
}

namespace lockguard::pg {

namespace {

bool is_ascii(const char* text, std::size_t length) {
    constexpr uint64 high_bits = 0x8080808080808080;
    uint64 seen = 0;
    for (; length >= sizeof(uint64); text += sizeof(uint64), length -= sizeof(uint64)) {
        uint64 word;
        memcpy(&word, text, sizeof(word));
        seen |= word;
    }
    for (; length > 0; text++, length--)
        seen |= static_cast<unsigned char>(*text);
    return (seen & high_bits) == 0;
}

/// Does text end before the character that it begins with does?
bool is_incomplete(const char* text, int length, int encoding) {
    // May look at the byte behind the first, which is a NUL at the latest.
    if (pg_encoding_mblen(encoding, text) <= length)
        return false;
    for (int i = 1; i < length; i++) {
        if (!IS_HIGHBIT_SET(text[i]))
            return false;
    }
    return true;
}

/// make_valid(), where something is not valid.
std::size_t replace_invalid(char* text, std::size_t length, int encoding, bool cut) {
    std::size_t done = 0;
    while (done < length) {
        int rest = static_cast<int>(length - done);
        int size = pg_encoding_verifymbchar(encoding, text + done, rest);
        if (size > 0) {
            done += static_cast<std::size_t>(size);
            continue;
        }
        if (cut && is_incomplete(text + done, rest, encoding))
            break;
        text[done++] = '?';
    }
    text[done] = '\0';
    return done;
}

} // namespace

std::size_t make_valid(char* text, std::size_t length, bool cut) {
    if (is_ascii(text, length))
        return length;
    int encoding = GetDatabaseEncoding();
    auto valid = pg_encoding_verifymbstr(encoding, text, static_cast<int>(length));
    if (static_cast<std::size_t>(valid) == length)
        return length;
    return replace_invalid(text, length, encoding, cut);
}

const char* valid_copy(std::string_view text) {
    char* copy = pnstrdup(text.data(), text.size());
    make_valid(copy, text.size());
    return copy;
}

namespace {

/// As far as the conversion goes, in bytes.
std::size_t convertible(Oid conversion, int from, int to, char* text, std::size_t length,
                        unsigned char* room, std::size_t room_size) {
    return static_cast<std::size_t>(pg_do_encoding_conversion_buf(
        conversion, from, to, reinterpret_cast<unsigned char*>(text), static_cast<int>(length),
        room, static_cast<int>(room_size), true));
}

/// Returns the new length. "?" takes one byte, as no character takes less.
std::size_t replace_inconvertible(char* text, std::size_t length, int from, int to) {
    const Oid conversion = FindDefaultConversion(PG_CATALOG_NAMESPACE, from, to);
    if (!OidIsValid(conversion))
        return length; // the server would have refused the client's encoding
    const std::size_t room_size = (length + 2) * MAX_CONVERSION_GROWTH;
    auto* room = static_cast<unsigned char*>(palloc(room_size));
    for (std::size_t done = 0;;) {
        done += convertible(conversion, from, to, text + done, length - done, room, room_size);
        if (done >= length)
            break;
        const std::size_t size =
            std::min(static_cast<std::size_t>(pg_encoding_mblen(from, text + done)), length - done);
        text[done++] = '?';
        memmove(text + done, text + done + size - 1, length - done - size + 2);
        length -= size - 1;
    }
    pfree(room);
    return length;
}

} // namespace

const char* text_for_client(const char* text) {
    const int from = GetDatabaseEncoding();
    const int to = pg_get_client_encoding();
    if (text == nullptr || from == to || to == PG_SQL_ASCII || is_ascii(text, strlen(text)))
        return text;
    char* copy = pstrdup(text);
    // The bytes of a database without an encoding are sent as they are, if they are valid there.
    if (from == PG_SQL_ASCII)
        replace_invalid(copy, strlen(copy), to, false);
    else
        replace_inconvertible(copy, strlen(copy), from, to);
    return copy;
}

} // namespace lockguard::pg
