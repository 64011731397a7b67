/* A model on a backend, fed by hand: what the golden tests run.
 *
 * Up to GOLDEN_SLOTS sequences, their KV pages in scattered order; every row of a step is sampled,
 * so that its logits can be read back. What names no slot means slot 0. */
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
#define GOLDEN_SLOTS     4

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
    uint32_t flags; /* enum batch_seg_flags */
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
    float *states; /* device memory, [state layer][slot] */
    struct tensor_set expected;
    uint32_t token_n[GOLDEN_SLOTS]; /* positions fed so far */
    void *blocks[GOLDEN_ADAPTERS];  /* device memory of the versions, or NULL */
    size_t block_bytes[GOLDEN_ADAPTERS];
};

/* A sequence's part of a step: n rows at its next positions. tokens NULL: one row whose input is
 * the last token sampled for the slot. */
struct golden_part {
    const struct golden_run *run;
    uint32_t slot;
    const int32_t *tokens;
    uint32_t n;
};

/* A sanitizer makes goldens slow, emulated instructions very slow: then the fastest path stands for
 * all of cpu, and some cases for the others. The release build checks them all; so does
 * GRAFT_LONG=1. */
bool golden_is_brief(void);

/* The base alone, of states one family: with GRAFT_FIRST set, and under ThreadSanitizer, which
 * looks at nothing but hand-overs between threads. */
bool golden_is_first(void);

/* Into list: ref, and what else can run here and has a name that begins with `only` (NULL: all of
 * them). Returns their number. */
uint32_t golden_backends(struct golden_backend *list, uint32_t max, const char *only);

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

/* New sequences in all slots; or in one. */
void golden_restart(struct golden *g);
void golden_restart_slot(struct golden *g, uint32_t slot);

/* The sequence's recurrent state of one recurrent layer, g->state.state_n floats. */
void golden_read_state(const struct golden *g, uint32_t state_layer, float *out);

/* A slot's memory of one recurrent layer, with the convolution's part. */
float *golden_slot_state(const struct golden *g, uint32_t state_layer, uint32_t slot);

/* One step of n rows at the next positions; logits [n, vocab] may be NULL. tokens NULL: one row
 * whose input is the last token sampled. Returns the token sampled from the last row. */
uint32_t golden_step(struct golden *g, const struct golden_run *run, const int32_t *tokens,
                     uint32_t n, bool is_prompt, float *logits);

/* The same of several sequences, each in a slot of its own; logits [rows of all, vocab] may be
 * NULL.
 */
void golden_step_parts(struct golden *g, const struct golden_part *parts, uint32_t part_n,
                       bool is_prompt, float *logits);

/* Fills g->batch with such a step and does not run it. */
void golden_fill(struct golden *g, const struct golden_part *parts, uint32_t part_n,
                 bool is_prompt);

/* One prompt step of n rows from position 0 with a score for each but the last, and a sample for
 * the last: out has the sample's record, then n - 1 scores. */
void golden_score(struct golden *g, const struct golden_run *run, const int32_t *tokens, uint32_t n,
                  struct batch_token *out);

#endif
