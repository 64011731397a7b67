/* Token ids to text as they come. What is appended is always whole UTF-8; bytes that can never
 * become valid turn into U+FFFD, one for each maximal ill-formed part, so that all pieces together
 * are what decoding the whole list at once gives. A NUL turns into U+FFFD, too. */
#ifndef TEXT_DETOK_H
#define TEXT_DETOK_H

#include "base/buf.h"
#include "text/tokenizer.h"

struct detok {
    const struct tokenizer *tk; /* borrowed */
    bool skip_special;          /* special tokens give no text */
    unsigned char held_n;
    char held[4]; /* the beginning of a character, [held_n] */
};

void detok_init(struct detok *d, const struct tokenizer *tk, bool skip_special);

/* Appends the text that became certain with this token; an unknown id gives none. */
void detok_push(struct detok *d, uint32_t id, struct buf *out);

/* Appends U+FFFD for what was held back, and begins anew. */
void detok_finish(struct detok *d, struct buf *out);

#endif
