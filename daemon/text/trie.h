/* Finds the longest of many strings at a place of a text: the matcher of added tokens. */
#ifndef TEXT_TRIE_H
#define TEXT_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

struct trie_node {
    uint32_t child;   /* first child; 0 for none */
    uint32_t sibling; /* next child of the parent; 0 for none */
    uint32_t value;   /* value + 1 of the string that ends here; 0 for none */
    unsigned char byte;
};

struct trie {
    struct trie_node *nodes; /* nodes[0] is unused; NULL while the trie is empty */
    uint32_t n;
    uint32_t cap;
    uint32_t first[256]; /* the node of a string's first byte; 0 for none */
};

void trie_done(struct trie *trie); /* a zeroed trie is an empty one */

/* Adds n >= 1 bytes. False when the string is there already. */
bool trie_add(struct trie *trie, const char *s, size_t n, uint32_t value);

struct trie_match {
    size_t begin;
    size_t end;
    uint32_t value;
};

/* The first match at or after `from`, and of those there the longest. False when there is none. */
bool trie_find(const struct trie *trie, const char *text, size_t n, size_t from,
               struct trie_match *out);

#endif
