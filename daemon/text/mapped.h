/* Text that was changed on its way (normalised, prefixed), with the place every byte came from.
 *
 * For each byte of `text` the map holds the range of original bytes it stands for; ranges are whole
 * characters, so that a token that cuts a character still names valid text. The map is kept only
 * when it is wanted. */
#ifndef TEXT_MAPPED_H
#define TEXT_MAPPED_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct mapped {
    struct buf text;
    bool has_map;
    uint32_t *begin; /* [text.n] first original byte */
    uint32_t *end;   /* [text.n] the one behind the last */
    size_t map_cap;
};

void mapped_init(struct mapped *m, bool has_map);
void mapped_done(struct mapped *m);
void mapped_clear(struct mapped *m);

/* Appends n bytes that all stand for the original range [begin, end). */
void mapped_add(struct mapped *m, const char *s, size_t n, uint32_t begin, uint32_t end);

/* Appends n bytes of valid UTF-8 that are the original text at `begin`, character by character. */
void mapped_copy(struct mapped *m, const char *s, size_t n, uint32_t begin);

#endif
