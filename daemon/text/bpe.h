/* The merge loop of byte-pair encoding. */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

struct tokenizer;

struct bpe_symbol {
    uint32_t id;
    uint32_t n;    /* bytes it covers; 0: merged into the one on its left */
    uint32_t prev; /* TOKEN_NONE at the ends */
    uint32_t next;
};

struct bpe_candidate {
    uint32_t rank;
    uint32_t at; /* index of the left symbol */
    uint32_t id; /* what the pair becomes */
};

/* Memory of one encoder, grown to the longest word. A zeroed one is empty. */
struct bpe_room {
    struct bpe_symbol *symbols;
    size_t n; /* symbols of the last word */
    size_t symbols_cap;
    struct bpe_candidate *heap; /* binary heap, lowest rank first, then leftmost */
    size_t heap_n;
    size_t heap_cap;
};

void bpe_room_done(struct bpe_room *room);

/* Splits n >= 1 bytes into tokens: room->symbols[0..room->n), left to right. A byte that has no
 * token disappears, as it does in the library. O(n log n). */
void bpe_word(const struct tokenizer *tk, const char *word, size_t n, struct bpe_room *room);

#endif
