/* Pages: the indices of the KV cache's pages, reference-counted. The bytes are the rank's.
 *
 * A page is free while nobody holds it. Whoever takes a page holds it once; sharing adds a holder,
 * dropping removes one. Which page is handed out next depends on the calls so far only.
 *
 * A page remembers which form of rows was planned into it. On a backend where the two forms differ
 * in their last bits, only what prompt rows alone have written may serve another sequence. */
#ifndef SCHED_PAGES_H
#define SCHED_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum page_forms {
    PAGE_PROMPT = 1,    /* prompt rows were written into it */
    PAGE_GENERATED = 2, /* generated rows were */
};

struct pages {
    uint32_t page_n;
    uint32_t free_n;
    uint32_t *free_ids;  /* [page_n], a stack */
    uint32_t *refs;      /* [page_n] */
    uint8_t *forms;      /* [page_n]: enum page_forms, 0 while free */
    uint32_t *freed_ids; /* [page_n]: were freed and not told, a stack */
    uint32_t freed_n;
    bool *is_freed; /* [page_n]: in freed_ids */
};

size_t pages_bytes(uint32_t page_n);

/* Borrows pages_bytes(page_n) bytes of memory for its whole life. */
void pages_init(struct pages *pages, uint32_t page_n, void *memory);

/* Takes a free page; false when there is none. */
bool pages_take(struct pages *pages, uint32_t *out_page);

/* Rows of this form are going to be written into a page that one sequence holds. */
void pages_mark(struct pages *pages, uint32_t page, enum page_forms form);

/* One more holder of a page that somebody holds, and that no generated row was written into. */
void pages_share(struct pages *pages, uint32_t page);

/* One holder less; the last one frees the page. */
void pages_drop(struct pages *pages, uint32_t page);

/* A page that was freed since it was last told; it may have been taken again. False when all were
 * told. */
bool pages_next_freed(struct pages *pages, uint32_t *out_page);

#endif
