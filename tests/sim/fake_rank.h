/* A rank without a device: runs batches of the fake model over real page tables, real slots and
 * real adapter blocks, on a virtual clock, and checks that every batch is well formed.
 *
 * It takes step_ahead + 1 steps before it has answered the first. The version slots of a step are
 * looked up when it is sent; all else is read when its result is due: a page, a batch or an adapter
 * block that changes before that shows in the tokens. */
#ifndef TESTS_SIM_FAKE_RANK_H
#define TESTS_SIM_FAKE_RANK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "engine/link.h"
#include "sched/sched.h"

/* An adapter block as the fake store makes it; lies in the pool. */
struct fake_block {
    uint64_t content;
    uint64_t filler[31]; /* copied in pieces; all equal to content once complete */
};

#define FAKE_RUBBISH UINT64_MAX /* in a page that nobody wrote since it was discarded */

#define FAKE_STEPS   4
#define FAKE_SLOTS   8
#define FAKE_CONTEXT (6 * LIMIT_KV_PAGE)

/* A step that was sent and not answered. */
struct fake_step {
    struct rank_cmd cmd;
    uint64_t hash; /* of its batch, when it was sent */
    int64_t due_ns;
    bool has_due; /* the simulation sets due_ns */
    const struct fake_block *blocks[FAKE_SLOTS * LIMIT_REQUEST_ADAPTERS]; /* by segment */
    const struct fake_block *starts[FAKE_SLOTS];                          /* by start */
};

/* What penalties look at. */
struct fake_counts {
    uint32_t tokens[FAKE_CONTEXT];
    uint32_t n;
    uint32_t prompt_n;
};

struct fake_rank {
    struct sched_config config;
    uint32_t step_ahead;
    uint64_t *kv;                       /* [page_n][LIMIT_KV_PAGE] */
    uint32_t *last_tokens;              /* [slot_n] */
    struct fake_counts *counts;         /* [slot_n] */
    const void **versions;              /* [LIMIT_VERSIONS] */
    uint64_t *row_adapters;             /* [row_max]: of the step that is run */
    uint64_t states[FAKE_SLOTS];        /* what the sequence in a slot began with */
    struct fake_step steps[FAKE_STEPS]; /* oldest first */
    uint32_t unread_n;
    bool is_quit;
    int64_t now_ns;
    uint64_t fail_step; /* this step and all later ones fail; 0 = none */
    uint64_t hash;      /* over all batches */
    uint64_t step_n;
    uint64_t mixed_n;  /* steps with more than one segment */
    uint64_t start_n;  /* sequences that began with an adapter's states */
    uint64_t ahead_n;  /* steps sent before the one before was read */
    uint64_t sample_n; /* tokens sampled, those that nobody was told included */
};

void fake_rank_init(struct fake_rank *rank, const struct sched_config *config, uint32_t step_ahead);
void fake_rank_done(struct fake_rank *rank);
struct link fake_rank_link(struct fake_rank *rank);

/* The page's content is rubbish from now on; no step that was not answered may name it. */
void fake_rank_discard(struct fake_rank *rank, uint32_t page);
bool fake_rank_is_rubbish(const struct fake_rank *rank, uint32_t page);

/* A result may be received now. */
bool fake_rank_is_due(const struct fake_rank *rank);

#endif
