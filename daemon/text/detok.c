/* At most three bytes are ever held: the beginning of a character that the next token may finish.
 */
#include "text/detok.h"

#include <string.h>

#include "text/utf8.h"

void detok_init(struct detok *d, const struct tokenizer *tk, bool skip_special)
{
    *d = (struct detok){.tk = tk, .skip_special = skip_special};
}

/* Text without a NUL: it travels in strings that end at one. */
static void detok_add(const char *text, size_t n, struct buf *out)
{
    if (text[0] == '\0') {
        buf_add_str(out, UTF8_REPLACEMENT);
    } else {
        buf_add(out, text, n);
    }
}

/* Takes one byte; held never grows beyond a whole character. */
static void detok_byte(struct detok *d, char byte, struct buf *out)
{
    d->held[d->held_n++] = byte;
    while (d->held_n > 0) {
        size_t n;
        enum utf8_status status = utf8_scan(d->held, d->held_n, &n);
        if (status == UTF8_SHORT) {
            return;
        }
        if (status == UTF8_WHOLE) {
            detok_add(d->held, n, out);
        } else {
            buf_add_str(out, UTF8_REPLACEMENT);
        }
        d->held_n -= (unsigned char)n;
        memmove(d->held, d->held + n, d->held_n);
    }
}

void detok_push(struct detok *d, uint32_t id, struct buf *out)
{
    size_t n;
    const char *bytes = tokenizer_token_bytes(d->tk, id, &n);
    if (!bytes || (d->skip_special && tokenizer_is_special(d->tk, id))) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (d->held_n == 0 && (unsigned char)bytes[i] < 0x80) {
            detok_add(bytes + i, 1, out);
        } else {
            detok_byte(d, bytes[i], out);
        }
    }
}

void detok_finish(struct detok *d, struct buf *out)
{
    if (d->held_n > 0) {
        buf_add_str(out, UTF8_REPLACEMENT);
        d->held_n = 0;
    }
}
