/* Stop strings in a stream of text, wherever the pieces of the stream are cut.
 *
 * The match that ends first wins, and of those the longest: the one rule that does not depend on
 * how the text was cut. Text that could be the beginning of a stop string is held back. */
#ifndef TEXT_STOP_H
#define TEXT_STOP_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"

struct stop_string {
    char *text;
    uint16_t *fail; /* [n] length of the longest proper prefix that ends text[0..i] */
    uint16_t n;
    uint16_t matched; /* bytes of text that end the stream so far */
};

struct stop_match {
    struct stop_string *strings; /* [n] owned */
    size_t n;
    size_t held_n;
    char held[LIMIT_STOP_BYTES]; /* the end of the stream, not yet given out */
};

/* Copies n strings, 0 allowed. Errors (INVALID_PARAMETER): too many, empty, too long, not UTF-8. */
int stop_init(struct stop_match *s, const char *const *strings, size_t n, struct err *err);
void stop_done(struct stop_match *s); /* a zeroed one is allowed */

/* Takes n bytes of whole UTF-8 and appends to `out` what is certain to be wanted. Returns -1, or
 * the index of the stop string that matched: then `out` has everything before it and nothing of it,
 * what follows in `text` is dropped, and the stream is at its end. */
int stop_push(struct stop_match *s, const char *text, size_t n, struct buf *out);

/* Appends what was held back: the stream ended without a match. */
void stop_finish(struct stop_match *s, struct buf *out);

#endif
