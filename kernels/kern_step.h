/* What the ops of one step share: views of rows, sequences, pages and segments.
 *
 * The records equal those of sched/batch.h; the walk points these views into the batch without
 * copying. Their meaning, field by field, is stated there. */
#ifndef KERNELS_KERN_STEP_H
#define KERNELS_KERN_STEP_H

#include <stdint.h>

#include "base/limits.h"

enum kern_row_flags { KERN_ROW_FROM_SLOT = 1, KERN_ROW_PROMPT = 2 };

struct kern_row {
    uint32_t token;
    uint32_t slot;
    uint32_t pos;
    uint32_t flags;
};

struct kern_seq {
    uint32_t slot;
    uint32_t row_first;
    uint32_t row_n;
    uint32_t page_first;
    uint32_t page_n;
};

enum kern_seg_flags { KERN_SEG_SCALES = 1 };

struct kern_seg {
    uint32_t version;
    uint32_t order;
    uint32_t row_first;
    uint32_t row_n;
    uint32_t flags;
};

/* A sequence whose first row of this step is at position 0 and whose recurrent layers begin with
 * weight times the states of a version. */
struct kern_start {
    uint32_t slot;
    uint32_t version;
    float weight;
};

struct kern_seg_row {
    uint32_t row;
    float weight;
};

enum kern_sample_flags { KERN_SAMPLE_FRESH = 1 };

/* Penalties count tokens per slot, on the device. With a penalty on, FRESH empties the slot's
 * counts, then hist[hist_first ..+hist_n) is added (the first hist_prompt_n of them as prompt
 * tokens), then the token is sampled and added as an output. So the whole history travels once,
 * with the first sample of a sequence in its slot. Without a penalty nothing is counted and hist_n
 * is 0. */
struct kern_sample_row {
    uint32_t row;
    uint32_t slot;
    uint32_t pos;
    float temperature;
    float top_p;
    float min_p;
    uint32_t top_k;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint64_t seed;
    int32_t top_logprobs;
    uint32_t flags;
    uint32_t bias_first;
    uint32_t bias_n;
    uint32_t hist_first;
    uint32_t hist_n;
    uint32_t hist_prompt_n;
};

struct kern_bias {
    uint32_t token;
    float bias;
};

struct kern_score_row {
    uint32_t row;
    uint32_t target;
    uint32_t top_n;
};

struct kern_token {
    uint32_t token;
    float logprob;
    uint32_t top_n;
    uint32_t top_tokens[LIMIT_TOP_LOGPROBS];
    float top_logprobs[LIMIT_TOP_LOGPROBS];
};

struct kern_step {
    const struct kern_row *rows;
    uint32_t row_n;
    const struct kern_seq *seqs;
    uint32_t seq_n;
    const uint32_t *pages;
    const struct kern_seg *segs;
    uint32_t seg_n;
    const struct kern_seg_row *seg_rows;
    const struct kern_sample_row *samples;
    uint32_t sample_n;
    const struct kern_bias *biases;
    const uint32_t *hist;
    const struct kern_score_row *scores;
    uint32_t score_n;
    const struct kern_start *starts; /* no slot twice */
    uint32_t start_n;
    /* Rotary embedding of the model: angle(pos, i) = (float)pos * inv_freq[i] rounded to fp32; cos
     * and sin of it are multiplied by rope_scale. rotary_n = 2 * inv_freq count; 0 = no rotary. */
    const float *inv_freq; /* host [rotary_n / 2] */
    uint32_t rotary_n;
    float rope_scale;
};

#endif
