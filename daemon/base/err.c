/* The list of codes as a table, and text that is always valid UTF-8. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int grpc_status;
} err_table[ERR_INDEX_N] = {
#define X(name, status) {#name, status},
    ERR_LIST(X)
#undef X
};

/* Bytes of the UTF-8 sequence at s, 0 when it is none. A NUL ends every sequence early enough. */
static size_t err_sequence(const unsigned char *s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    uint32_t point = n < 2 ? s[0] : s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
        point = point << 6 | (s[i] & 0x3Fu);
    }
    bool is_legal = n > 0 && point >= least[n] && point <= 0x10FFFF && point >> 11 != 0x1B;
    return is_legal ? n : 0;
}

void err_scrub(char *text)
{
    unsigned char *from = (unsigned char *)text;
    unsigned char *to = from;
    while (*from) {
        size_t n = err_sequence(from);
        if (n == 0) {
            from++; /* a byte of a character that was cut, or of none */
            continue;
        }
        memmove(to, from, n);
        to += n;
        from += n;
    }
    *to = '\0';
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        err_scrub(err->text);
    }
    return code;
}

int err_prefix(struct err *err, int code, const char *fmt, ...)
{
    if (err) {
        char joined[ERR_TEXT_BYTES];
        va_list args;
        va_start(args, fmt);
        int n = vsnprintf(joined, sizeof joined, fmt, args);
        va_end(args);
        if (n >= 0 && (size_t)n < sizeof joined) {
            size_t room = sizeof joined - (size_t)n;
            size_t keep = MIN(strlen(err->text), room > 3 ? room - 3 : 0);
            snprintf(joined + n, room, ": %.*s", (int)keep, err->text);
        }
        memcpy(err->text, joined, sizeof joined);
        err_scrub(err->text);
        err->code = code;
    }
    return code;
}

const char *err_name(int code)
{
    int index = -1 - code;
    if (code == 0) {
        return "NONE";
    }
    return index >= 0 && index < ERR_INDEX_N ? err_table[index].name : "UNKNOWN";
}

int err_grpc_status(int code)
{
    int index = -1 - code;
    if (code == 0) {
        return 0;
    }
    return index >= 0 && index < ERR_INDEX_N ? err_table[index].grpc_status : 2;
}
