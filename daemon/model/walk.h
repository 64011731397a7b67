/* The walk: one step of one model on one device, as a list of op calls.
 *
 * A walk owns the workspace of its device. Rank thread only, after walk_init. */
#ifndef MODEL_WALK_H
#define MODEL_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "sched/batch.h"

struct model;

struct walk {
    const struct model *model;
    uint32_t row_max, sample_max, score_max;
    float *h, *q, *logits;
    float *gate;  /* of attention's output; NULL where there is none */
    float *mixer; /* what a recurrent mixer reads; NULL where there is none */
    void *x, *mixed, *act;
    void *parts[2];            /* the second where a layer has two mixers */
    struct kern_token *tokens; /* device [sample_max + score_max] */
};

/* Bytes of workspace for these maxima. */
size_t walk_bytes(const struct model *model, uint32_t row_max, uint32_t sample_max,
                  uint32_t score_max);

/* Those of them that are logits. */
size_t walk_logit_bytes(const struct model *model, uint32_t sample_max, uint32_t score_max);

/* Reserves the workspace on the model's device. */
int walk_init(struct walk *walk, const struct model *model, uint32_t row_max, uint32_t sample_max,
              uint32_t score_max, struct err *err);

/* Before the first step, once KV memory is open and the model loaded: has those ops recorded that
 * the backend replays. */
int walk_capture(const struct walk *walk, struct err *err);

/* Hands one step to the device; it may still run on return. The batch is not used any more. At most
 * kern->step_ahead + 1 steps are submitted and not read. Allocates nothing. */
void walk_submit(struct walk *walk, const struct batch *batch);

/* Takes the oldest submitted step's sample_n + score_n records into out (host): 0, or 1 when it has
 * not ended yet (is_waiting: waits for it instead), or ERR_DEVICE_FAILURE. */
int walk_read(struct walk *walk, struct batch_token *out, bool is_waiting);

/* Both: runs one step. Returns 0 or ERR_DEVICE_FAILURE. */
int walk_step(struct walk *walk, const struct batch *batch, struct batch_token *out);

#endif
