/* A model on a backend, fed by hand: what the golden tests run.
 *
 * One sequence in slot 0, its KV pages in scattered order; every row of a step is sampled, so that
 * its logits can be read back. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include "kernels/kern.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "model/walk.h"

#define GOLDEN_ROWS_MAX  160
#define GOLDEN_STEPS     64
#define GOLDEN_VOCAB_MAX 160
#define GOLDEN_SEGS_MAX  2
#define GOLDEN_ADAPTERS  5

struct golden_backend {
    char name[32]; /* "cpu avx512" */
    const struct kern *kern;
    enum kern_isa isa;
    bool is_stand_in;
    bool is_16_bit; /* holds 16-bit checkpoints as they are, and no others */
};

/* The adapters of one run, in request order: version slot and weight. */
struct golden_seg {
    uint32_t version;
    float weight;
};

struct golden_run {
    const char *name; /* "pair": the prefix of its tensors */
    uint32_t seg_n;
    struct golden_seg segs[GOLDEN_SEGS_MAX];
    struct golden_seg start; /* what the sequence begins with; weight 0: zero states */
};

struct golden {
    struct model model;
    struct walk walk;
    struct batch *batch;
    struct kern_state state;
    float *states; /* device memory, of one slot */
    struct tensor_set expected;
    uint32_t token_n; /* positions fed so far */
};

/* The next n backends that can run here, ref first, into list; returns their number. */
uint32_t golden_backends(struct golden_backend *list, uint32_t max);

/* Whether the backend can hold tests/golden/<name>. */
bool golden_can_hold(const struct golden_backend *backend, const char *name);

/* Opens tests/golden/<name> on a backend, with those of its adapters a, b, s, n and ia3 that it has
 * as versions 0 to 4, prepared by the adapter store. */
void golden_open(struct golden *g, const struct golden_backend *backend, const char *name);
/* Its config.json with random weights of this seed, without adapters and expectations. */
void golden_open_random(struct golden *g, const struct golden_backend *backend, const char *name,
                        enum dtype held, uint64_t seed);
void golden_close(struct golden *g);

/* Whether the case has that run. */
bool golden_has_run(const struct golden *g, const char *run);

/* A new sequence. */
void golden_restart(struct golden *g);

/* The sequence's recurrent state of one recurrent layer, g->state.state_n floats. */
void golden_read_state(const struct golden *g, uint32_t state_layer, float *out);

/* One step of n rows at the next positions; logits [n, vocab] may be NULL. tokens NULL: one row
 * whose input is the last token sampled. Returns the token sampled from the last row. */
uint32_t golden_step(struct golden *g, const struct golden_run *run, const int32_t *tokens,
                     uint32_t n, bool is_prompt, float *logits);

/* One prompt step of n rows from position 0 with a score for each but the last, and a sample for
 * the last: out has the sample's record, then n - 1 scores. */
void golden_score(struct golden *g, const struct golden_run *run, const int32_t *tokens, uint32_t n,
                  struct batch_token *out);

#endif
