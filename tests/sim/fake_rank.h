/* A rank without a device: runs batches of the fake model over real page tables, real slots and
 * real adapter blocks, on a virtual clock, and checks that every batch is well formed.
 *
 * A step is computed when its result is due, not when it is sent: a page, a batch or an adapter
 * block that changes while the step runs shows in the tokens. */
#ifndef TESTS_SIM_FAKE_RANK_H
#define TESTS_SIM_FAKE_RANK_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/link.h"
#include "sched/sched.h"

/* An adapter block as the fake store makes it; lies in the pool. */
struct fake_block {
    uint64_t content;
    uint64_t filler[31]; /* copied in pieces; all equal to content once complete */
};

struct fake_rank {
    struct sched_config config;
    uint64_t *kv;           /* [page_n][LIMIT_KV_PAGE] */
    uint32_t *last_tokens;  /* [slot_n] */
    const void **versions;  /* [LIMIT_VERSIONS] */
    uint64_t *row_adapters; /* [row_max]: of the step */
    struct rank_cmd step;
    bool is_running;
    bool is_quit;
    int64_t due_ns; /* of the running step; the simulation sets it when is_new */
    bool is_new;
    int64_t now_ns;
    uint64_t fail_step; /* this step fails; 0 = none */
    uint64_t hash;      /* over all batches */
    uint64_t step_n;
    uint64_t mixed_n; /* steps with more than one segment */
};

void fake_rank_init(struct fake_rank *rank, const struct sched_config *config);
void fake_rank_done(struct fake_rank *rank);
struct link fake_rank_link(struct fake_rank *rank);

#endif
