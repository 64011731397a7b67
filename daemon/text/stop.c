/* One Knuth-Morris-Pratt automaton per string. What is held back is as long as the furthest of them
 * has got, which a stop string's length bounds. */
#include "text/stop.h"

#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"

_Static_assert(LIMIT_STOP_BYTES <= UINT16_MAX, "lengths are kept in 16 bits");

static void stop_string_init(struct stop_string *string, const char *text, size_t n)
{
    size_t length = 0;
    string->text = mem_alloc(n);
    string->fail = mem_zalloc_n(n, sizeof *string->fail);
    string->n = (uint16_t)n;
    memcpy(string->text, text, n);
    for (size_t i = 1; i < n; i++) {
        while (length > 0 && text[i] != text[length]) {
            length = string->fail[length - 1];
        }
        length += text[i] == text[length];
        string->fail[i] = (uint16_t)length;
    }
}

int stop_init(struct stop_match *s, const char *const *strings, size_t n, struct err *err)
{
    if (n > LIMIT_REQUEST_STOPS) {
        return err_set(err, ERR_INVALID_PARAMETER, "request has %zu stop strings, limit is %d", n,
                       LIMIT_REQUEST_STOPS);
    }
    for (size_t i = 0; i < n; i++) {
        size_t bytes = strlen(strings[i]);
        if (bytes == 0 || bytes > LIMIT_STOP_BYTES) {
            return err_set(err, ERR_INVALID_PARAMETER,
                           "stop string %zu has %zu bytes, it must have 1 to %d", i, bytes,
                           LIMIT_STOP_BYTES);
        }
        if (utf8_bad_at(strings[i], bytes) < bytes) {
            return err_set(err, ERR_INVALID_PARAMETER,
                           "stop string %zu is not valid UTF-8 at byte %zu", i,
                           utf8_bad_at(strings[i], bytes));
        }
    }
    *s = (struct stop_match){.strings = mem_zalloc_n(n, sizeof *s->strings), .n = n};
    for (size_t i = 0; i < n; i++) {
        stop_string_init(&s->strings[i], strings[i], strlen(strings[i]));
    }
    return 0;
}

void stop_done(struct stop_match *s)
{
    for (size_t i = 0; i < s->n; i++) {
        mem_free(s->strings[i].text);
        mem_free(s->strings[i].fail);
    }
    mem_free(s->strings);
    *s = (struct stop_match){0};
}

/* Moves one string on by a byte. True when it is complete. */
static bool stop_string_step(struct stop_string *string, char byte)
{
    size_t matched = string->matched;
    while (matched > 0 && string->text[matched] != byte) {
        matched = string->fail[matched - 1];
    }
    matched += string->text[matched] == byte;
    string->matched = (uint16_t)matched;
    return matched == string->n;
}

/* Gives out held text but for its last `keep` bytes. */
static void stop_release(struct stop_match *s, size_t keep, struct buf *out)
{
    size_t n = s->held_n - keep;
    buf_add(out, s->held, n);
    memmove(s->held, s->held + n, keep);
    s->held_n = keep;
}

int stop_push(struct stop_match *s, const char *text, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        size_t keep = 0;
        int found = -1;
        for (size_t k = 0; k < s->n; k++) {
            bool is_complete = stop_string_step(&s->strings[k], text[i]);
            if (is_complete && (found < 0 || s->strings[k].n > s->strings[found].n)) {
                found = (int)k;
            }
            keep = MAX(keep, s->strings[k].matched);
        }
        if (found >= 0) {
            /* The byte at hand is the stop string's last, and was not added to held. */
            stop_release(s, s->strings[found].n - 1u, out);
            s->held_n = 0;
            for (size_t k = 0; k < s->n; k++) {
                s->strings[k].matched = 0;
            }
            return found;
        }
        if (keep == 0) {
            stop_release(s, 0, out);
            buf_add(out, text + i, 1);
        } else {
            stop_release(s, keep - 1, out);
            s->held[s->held_n++] = text[i];
        }
    }
    return -1;
}

void stop_finish(struct stop_match *s, struct buf *out)
{
    stop_release(s, 0, out);
}
