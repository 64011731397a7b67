/* Sampling of one row of logits: every stage of kernels/README.md, as pure functions that all
 * backends on the CPU share, because two implementations of a sort order would differ some day.
 *
 * Work is O(vocabulary) plus a sort of the head of the distribution that is really looked at. A NaN
 * logit counts as -INFINITY, +INFINITY as the largest float. Any thread, one scratch each; nothing
 * allocates. */
#ifndef KERNELS_SAMPLE_H
#define KERNELS_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_step.h"

struct sample_scratch {
    float *logits;  /* [vocab_n] */
    uint64_t *keys; /* [vocab_n] */
};

/* Tokens of a slot's sequence so far, for penalties: [vocab_n], bit 15 = it occurs in the prompt,
 * below it how often it was an output (no further than 32767). All zero at open. */
#define SAMPLE_IN_PROMPT 0x8000u

struct sample_args {
    const float *logits; /* [vocab_n], raw; not written */
    uint32_t vocab_n;
    float lse; /* sample_lse of them, or the backend's own vector form of it */
    const struct kern_sample_row *row;
    const struct kern_bias *biases; /* the step's arrays */
    const uint32_t *hist;
    uint16_t *counts; /* of row's slot; read and written where a penalty is on */
};

/* Whether a row's slot is counted at all. */
bool sample_has_penalty(const struct kern_sample_row *row);

/* Bytes behind a scratch; the memory must be aligned to 8. */
size_t sample_scratch_bytes(uint32_t vocab_n);

/* Divides `memory` (borrowed until the last call with this scratch) and zeroes what must be. */
void sample_scratch_init(struct sample_scratch *scratch, void *memory, uint32_t vocab_n);

/* ln of the sum of e^l; -INFINITY when every logit is. */
float sample_lse(const float *logits, uint32_t vocab_n);

/* Fills token, its log-probability and the top_n (at most LIMIT_TOP_LOGPROBS) most probable tokens
 * from raw logits; unused entries of the two arrays become 0. */
void sample_logprobs(const struct sample_args *args, uint32_t token, uint32_t top_n,
                     struct kern_token *out);

/* Picks the token of args->row and fills out (token, log-probability, alternatives). */
void sample_row(const struct sample_args *args, struct sample_scratch *scratch,
                struct kern_token *out);

#endif
