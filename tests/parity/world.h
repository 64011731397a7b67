/* The world of a parity case: sequences with their rows, adapters and pages, and views of it. A
 * view is a step over a range of the world's rows, so that any part can be run without the rest. */
#ifndef TESTS_PARITY_WORLD_H
#define TESTS_PARITY_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "kernels/kern.h"

#define WORLD_SEQS     160
#define WORLD_ADAPTERS 8 /* of one sequence, at most */

struct world_seq {
    uint32_t row_first; /* in the world */
    uint32_t row_n;
    uint32_t start; /* position of the first row */
    bool is_prompt;
    uint32_t page_first;
    uint32_t page_n;
    uint32_t adapter_n;
    uint32_t versions[WORLD_ADAPTERS];
    float weights[WORLD_ADAPTERS];
    bool has_state; /* begins with the states of a version, if it begins at position 0 */
    uint32_t state_version;
    float state_weight;
};

struct world {
    struct world_seq seqs[WORLD_SEQS];
    uint32_t seq_n;
    uint32_t row_n;
    uint32_t version_n;
    uint64_t scales; /* versions with scale effects, as bits */
    uint32_t page_n;
    uint32_t *pages;
    const float *inv_freq;
    uint32_t rotary_n;
    float rope_scale;
    /* One per world row, or NULL; their row is overwritten by a view. */
    const struct kern_sample_row *samples;
    const struct kern_bias *biases;
    const uint32_t *hist;
    const struct kern_score_row *scores;
};

/* Backends that tell prompt rows from generated ones run every case in both forms. */
enum parity_form { PARITY_AS_GIVEN, PARITY_GENERATED, PARITY_PROMPT };

struct world_view {
    uint32_t first; /* world row of the step's row 0 */
    uint32_t row_n;
    struct kern_step step;
};

struct world_seq *world_add(struct world *world, uint32_t start, uint32_t row_n, bool is_prompt);

/* Deals pages to all sequences, scattered by the seed, one shared by two, some that nobody has. */
void world_deal_pages(struct world *world, uint64_t seed, struct arena *arena);

/* The sequence of a world row. */
const struct world_seq *world_seq_of(const struct world *world, uint32_t row);

/* Makes all rows of a view generated ones, or prompt ones. */
void world_view_set_form(struct world_view *view, enum parity_form form);

/* A step over rows [first, first + row_n); its arrays live in the arena. Sample and score i are of
 * row row_n - 1 - i, so that neither can be taken for the other. */
void world_view(const struct world *world, uint32_t first, uint32_t row_n, struct arena *arena,
                struct world_view *out);

#endif
