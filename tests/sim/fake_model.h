/* A model that is a hash: the next token depends on every token of the sequence, on its position,
 * on the adapters each position was fed with, and on every parameter of sampling. Used twice: by
 * the fake rank through pages and batches, and by the simulation from a request alone. */
#ifndef TESTS_SIM_FAKE_MODEL_H
#define TESTS_SIM_FAKE_MODEL_H

#include <stdint.h>

#include "sched/batch.h"

#define FAKE_VOCAB 61

/* What a position's adapters add up to, in the request's order; starts at 0. */
uint64_t fake_adapters(uint64_t so_far, uint64_t content, float weight);

/* What a sequence that begins with an adapter's states adds to all its positions' adapters; not 0.
 */
uint64_t fake_state(uint64_t content, float weight);

/* What is kept in the KV cache for a position. */
uint64_t fake_entry(uint32_t token, uint32_t pos, uint64_t adapters);

/* The sequence up to a position; starts at 0. */
uint64_t fake_fold(uint64_t fold, uint64_t entry);

/* Picks the token after a sequence. The sample's row, slot and *_first are ignored. */
struct batch_token fake_sample(uint64_t fold, const struct batch_sample *sample,
                               const struct batch_bias *biases, const uint32_t *hist);

struct batch_token fake_score(uint64_t fold, uint32_t target, uint32_t top_n);

#endif
