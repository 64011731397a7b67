/* The scheduler: decides what runs next. Pure: no threads, no clock, no heap, no I/O; the same
 * calls give the same plans.
 *
 * It knows sequences by small ids, their lengths, slots and pages, and nothing of tokens, adapters
 * or devices. A sequence is added (HELD, or ready at once), waits for its turn, runs, and is
 * removed. It gets a slot when it first runs and keeps it until it is removed; it gets pages for
 * all its known tokens when it starts to run and grows page by page. When a growing sequence finds
 * no page, the policy's victim gives up its pages, waits again and is recomputed later: its prompt
 * in prompt rows cut as before, its generated tokens in generated rows.
 *
 * Steps may be planned before the results of earlier ones are known: sched_step counts rows as fed
 * and the tokens they sample as generated, of which it needs to know that they exist only. What an
 * unread step names keeps its pages and its slot until sched_read: a sequence that is over (it has
 * all its tokens, or sched_stop was called) is planned no more and removed once no unread step
 * names it; a victim that an unread step names is left out of a plan or two and gives way then. */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sched/pages.h"

#define SCHED_NONE UINT32_MAX

struct sched_config {
    uint32_t slot_n;       /* sequences that have started and not ended */
    uint32_t queue_n;      /* sequences that wait, held ones included */
    uint32_t page_n;       /* KV pages */
    uint32_t row_max;      /* rows of a step, >= slot_n + LIMIT_PROMPT_CUT */
    uint32_t seq_page_max; /* pages of the longest sequence */
};

enum sched_state {
    SCHED_FREE,    /* the id is unused */
    SCHED_HELD,    /* not to be started yet (its adapters are being loaded) */
    SCHED_WAITING, /* ready, has no pages */
    SCHED_RUNNING, /* has a slot, and pages for everything fed */
};

struct sched_seq {
    enum sched_state state;
    bool is_parked;       /* not to be scheduled for now */
    bool is_stopped;      /* never to be scheduled again */
    bool is_yielding;     /* left out of the newest plan: somebody waits for its pages */
    uint32_t slot;        /* SCHED_NONE before it first runs */
    uint32_t prompt_n;    /* prompt tokens */
    uint32_t generated_n; /* tokens sampled, those of unread steps included */
    uint32_t max_tokens;  /* at most so many are sampled */
    uint32_t unread_n;    /* unread steps that name it */
    uint32_t fed_n;       /* positions 0..fed_n-1 are in its pages */
    uint32_t page_n;      /* pages held */
    uint64_t arrival;     /* the policy's order */
    uint64_t cache_ns[2]; /* sequences with equal ones may share prefixes */
    uint32_t prev;        /* neighbours in its list */
    uint32_t next;
};

/* Sequences in policy order. */
struct sched_list {
    uint32_t head;
    uint32_t tail;
    uint32_t n;
};

struct sched {
    struct sched_config config;
    struct sched_seq *seqs; /* [slot_n + queue_n], index = id */
    uint32_t *free_ids;     /* a stack */
    uint32_t free_id_n;
    uint32_t *free_slots; /* a stack */
    uint32_t free_slot_n;
    uint32_t *tables; /* page tables [slot_n][seq_page_max] */
    struct pages pages;
    struct sched_list waiting;
    struct sched_list running;
    uint32_t held_n;
    uint32_t yield_n; /* sequences that are yielding */
};

/* One sequence's rows in a step: positions [pos, pos + row_n), either all of the prompt or all
 * generated. */
struct sched_item {
    uint32_t id;
    uint32_t slot;
    uint32_t pos;
    uint32_t row_n;
    bool is_prompt;
    bool is_sample; /* the last row's next token is wanted */
};

/* A step. The arrays are the caller's, slot_n entries each. */
struct sched_plan {
    struct sched_item *items;
    uint32_t *started;   /* ids that run for the first time */
    uint32_t *preempted; /* ids that lost their pages */
    uint32_t item_n;
    uint32_t started_n;
    uint32_t preempted_n;
    uint32_t row_n;
};

struct sched_want {
    uint32_t prompt_n;   /* >= 1 */
    uint32_t max_tokens; /* >= 1 */
    uint64_t arrival;    /* unique; smaller = earlier */
};

size_t sched_bytes(const struct sched_config *config);

/* Borrows sched_bytes(config) bytes, aligned to 8, for its whole life. */
void sched_init(struct sched *sched, const struct sched_config *config, void *memory);

/* A new sequence, HELD. Fails with ERR_QUEUE_FULL, or with ERR_KV_MEMORY_EXHAUSTED when prompt and
 * max_tokens would not fit even if it had all pages for itself. */
int sched_add(struct sched *sched, const struct sched_want *want, uint32_t *out_id);

/* HELD -> WAITING. */
void sched_ready(struct sched *sched, uint32_t id, const uint64_t cache_ns[2]);

/* A parked sequence is not scheduled and is the first to give up its pages. */
void sched_park(struct sched *sched, uint32_t id, bool is_parked);

/* Plans no more rows of a sequence. If it runs, it is removed before the first sched_step at which
 * no unread step names it. */
void sched_stop(struct sched *sched, uint32_t id);

/* Ends a sequence in any state: its pages and slot are free again. Not while an unread step names
 * it. */
void sched_remove(struct sched *sched, uint32_t id);

/* Plans the next step: a row for every sequence that generates, then prompt chunks and what is
 * recomputed, in policy order. A sampled token is at position pos + row_n of its item. An empty
 * plan (row_n 0) means nothing can run now. */
void sched_step(struct sched *sched, struct sched_plan *out_plan);

/* The oldest unread step was read, or will never be: its plan (not an empty one) names nothing any
 * more. */
void sched_read(struct sched *sched, const struct sched_plan *plan);

/* A page that was freed and not told yet; no unread step names it. False when there is none. What
 * it held means nothing, so all are asked for before the next plan's step is sent: the plan may
 * name it anew. */
bool sched_next_freed(struct sched *sched, uint32_t *out_page);

/* True when no more rows of it are wanted: it has all its tokens, or was stopped. */
static inline bool sched_is_over(const struct sched_seq *seq)
{
    return seq->is_stopped || seq->generated_n == seq->max_tokens;
}

/* Its page table, entry i for positions [i * LIMIT_KV_PAGE, (i + 1) * LIMIT_KV_PAGE). */
const uint32_t *sched_pages(const struct sched *sched, uint32_t id);

/* Sequences in any state. */
uint32_t sched_live_n(const struct sched *sched);

/* Asserts that everything adds up: states, lists, slots, pages and their holders. For tests. */
void sched_check(const struct sched *sched);

#endif
