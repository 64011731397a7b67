/* A heap of candidate merges over a linked list of symbols. Candidates are not removed when a
 * neighbour changes: one that comes up is taken if its pair still becomes the same token. That is
 * the library's test too, and decides the rare case where two pairs make one token. */
#include "text/bpe.h"

#include "base/mem.h"
#include "text/tokenizer_int.h"

void bpe_room_done(struct bpe_room *room)
{
    mem_free(room->symbols);
    mem_free(room->heap);
    *room = (struct bpe_room){0};
}

static bool bpe_is_before(const struct bpe_candidate *a, const struct bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void bpe_push(struct bpe_room *room, struct bpe_candidate candidate)
{
    if (room->heap_n == room->heap_cap) {
        room->heap_cap = MAX(2 * room->heap_cap, 64);
        room->heap = mem_realloc(room->heap, room->heap_cap * sizeof *room->heap);
    }
    size_t at = room->heap_n++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!bpe_is_before(&candidate, &room->heap[parent])) {
            break;
        }
        room->heap[at] = room->heap[parent];
        at = parent;
    }
    room->heap[at] = candidate;
}

static struct bpe_candidate bpe_pop(struct bpe_room *room)
{
    struct bpe_candidate top = room->heap[0];
    struct bpe_candidate last = room->heap[--room->heap_n];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= room->heap_n) {
            break;
        }
        if (child + 1 < room->heap_n && bpe_is_before(&room->heap[child + 1], &room->heap[child])) {
            child++;
        }
        if (!bpe_is_before(&room->heap[child], &last)) {
            break;
        }
        room->heap[at] = room->heap[child];
        at = child;
    }
    room->heap[at] = last;
    return top;
}

/* Offers the pair that begins at symbol `left`, if it merges. */
static void bpe_offer(const struct tokenizer *tk, struct bpe_room *room, uint32_t left)
{
    const struct bpe_symbol *symbol = &room->symbols[left];
    const struct merge *merge = tokenizer_merge(tk, symbol->id, room->symbols[symbol->next].id);
    if (merge) {
        bpe_push(room, (struct bpe_candidate){merge->rank, left, merge->id});
    }
}

static void bpe_start(const struct tokenizer *tk, const char *word, size_t n, struct bpe_room *room)
{
    if (n > room->symbols_cap) {
        room->symbols_cap = MAX(n, 64);
        room->symbols = mem_realloc(room->symbols, room->symbols_cap * sizeof *room->symbols);
    }
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = tk->byte_ids[(unsigned char)word[i]];
        if (id != TOKEN_NONE) {
            room->symbols[count] = (struct bpe_symbol){id, 1, count - 1, count + 1};
            count++;
        }
    }
    room->n = count;
    if (count > 0) {
        room->symbols[0].prev = TOKEN_NONE;
        room->symbols[count - 1].next = TOKEN_NONE;
    }
}

/* Merges the pair of a candidate, unless it went out of date. */
static void bpe_take(const struct tokenizer *tk, struct bpe_room *room, struct bpe_candidate top)
{
    struct bpe_symbol *left = &room->symbols[top.at];
    if (left->n == 0 || left->next == TOKEN_NONE) {
        return;
    }
    struct bpe_symbol *right = &room->symbols[left->next];
    const struct merge *merge = tokenizer_merge(tk, left->id, right->id);
    if (!merge || merge->id != top.id) {
        return;
    }
    left->id = top.id;
    left->n += right->n;
    left->next = right->next;
    right->n = 0;
    if (left->next != TOKEN_NONE) {
        room->symbols[left->next].prev = top.at;
    }
    if (left->prev != TOKEN_NONE) {
        bpe_offer(tk, room, left->prev);
    }
    if (left->next != TOKEN_NONE) {
        bpe_offer(tk, room, top.at);
    }
}

void bpe_word(const struct tokenizer *tk, const char *word, size_t n, struct bpe_room *room)
{
    bpe_start(tk, word, n, room);
    room->heap_n = 0;
    for (size_t i = 0; i + 1 < room->n; i++) {
        bpe_offer(tk, room, (uint32_t)i);
    }
    while (room->heap_n > 0) {
        bpe_take(tk, room, bpe_pop(room));
    }
    size_t kept = 0;
    for (size_t i = 0; i < room->n; i++) {
        if (room->symbols[i].n > 0) {
            room->symbols[kept++] = room->symbols[i];
        }
    }
    room->n = kept;
}
