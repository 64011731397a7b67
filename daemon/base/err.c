/* The list of codes as a table, and text that is never cut inside a UTF-8 sequence. */
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

/* Removes a UTF-8 sequence that truncation cut in two. */
static void err_trim(char *text)
{
    size_t n = strlen(text);
    size_t i = n;
    while (i > 0 && n - i < 4 && ((unsigned char)text[i - 1] & 0xC0) == 0x80) {
        i--;
    }
    if (i == 0 || (unsigned char)text[i - 1] < 0xC0) {
        return;
    }
    unsigned char lead = (unsigned char)text[i - 1];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (n - (i - 1) < want) {
        text[i - 1] = '\0';
    }
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        err_trim(err->text);
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
        err_trim(err->text);
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
