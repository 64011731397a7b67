/* Children are a list, first bytes a table: added tokens are a few hundred strings that mostly
 * begin alike, and most bytes of a text begin none of them. */
#include "text/trie.h"

#include "base/mem.h"

void trie_done(struct trie *trie)
{
    mem_free(trie->nodes);
    *trie = (struct trie){0};
}

static uint32_t trie_child(const struct trie *trie, uint32_t node, unsigned char byte)
{
    uint32_t at = trie->nodes[node].child;
    while (at != 0 && trie->nodes[at].byte != byte) {
        at = trie->nodes[at].sibling;
    }
    return at;
}

static uint32_t trie_push(struct trie *trie, unsigned char byte)
{
    if (trie->n + 1 >= trie->cap) {
        trie->cap = MAX(2 * trie->cap, 64);
        trie->nodes = mem_realloc(trie->nodes, trie->cap * sizeof *trie->nodes);
    }
    trie->n++;
    trie->nodes[trie->n] = (struct trie_node){.byte = byte};
    return trie->n;
}

bool trie_add(struct trie *trie, const char *s, size_t n, uint32_t value)
{
    const unsigned char *u = (const unsigned char *)s;
    uint32_t at = trie->first[u[0]];
    if (at == 0) {
        at = trie_push(trie, u[0]);
        trie->first[u[0]] = at;
    }
    for (size_t i = 1; i < n; i++) {
        uint32_t next = trie_child(trie, at, u[i]);
        if (next == 0) {
            next = trie_push(trie, u[i]);
            trie->nodes[next].sibling = trie->nodes[at].child;
            trie->nodes[at].child = next;
        }
        at = next;
    }
    if (trie->nodes[at].value != 0) {
        return false;
    }
    trie->nodes[at].value = value + 1;
    return true;
}

bool trie_find(const struct trie *trie, const char *text, size_t n, size_t from,
               struct trie_match *out)
{
    const unsigned char *u = (const unsigned char *)text;
    for (size_t begin = from; trie->n > 0 && begin < n; begin++) {
        uint32_t at = trie->first[u[begin]];
        bool found = false;
        for (size_t i = begin + 1; at != 0; i++) {
            if (trie->nodes[at].value != 0) {
                *out = (struct trie_match){begin, i, trie->nodes[at].value - 1};
                found = true;
            }
            at = i < n ? trie_child(trie, at, u[i]) : 0;
        }
        if (found) {
            return true;
        }
    }
    return false;
}
