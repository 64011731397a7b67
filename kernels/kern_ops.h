/* The arguments of the compute ops, one struct per op. Shapes are [rows, columns], row-major.
 *
 * "dev" marks pointers into device memory; "held" is the type weights are held in (kern.h). The
 * rows, segments, samples and scores an op works on are those of the step that begin_step bound. */
#ifndef KERNELS_KERN_OPS_H
#define KERNELS_KERN_OPS_H

#include <stdint.h>

#include "kernels/kern_step.h"

/* One linear of a group: y = W x + b + effects. */
struct kern_linear_site {
    uint32_t site;     /* effect table index */
    uint32_t n;        /* outputs */
    const void *w;     /* dev: weight_pack of [n, k] */
    const float *bias; /* dev [n], or NULL */
};

enum kern_post {
    KERN_POST_STORE, /* sites 1 to 4: out_f32 [row_n, sum of their n], side by side */
    KERN_POST_PART,  /* sites 1: out_part, an opaque partial sum for join */
    KERN_POST_HEADS, /* sites 3 = q, k, v: see kern_heads */
    /* sites 2 = gate, up: out_held [row_n, n] = silu(gate_multiplier * gate) * up */
    KERN_POST_ACT_MUL,
};

/* Post of a q/k/v group, per row and head: optional RMS norm over head_dim (q and k), rotary
 * embedding (rotate-half, the first rotary_n dims), then q to memory in fp32 and k, v into the
 * row's KV page, rounded to the held type. With gate_out the q site has 2 * head_n heads: each
 * query head is followed by its gate, which goes to gate_out as it is. */
struct kern_heads {
    uint32_t head_n, kv_head_n, head_dim;
    const float *q_norm; /* dev [head_dim] or NULL */
    const float *k_norm;
    float norm_eps;
    uint32_t kv_layer;
    float *q_out;    /* dev [row_n, head_n * head_dim] */
    float *gate_out; /* the same shape, or NULL */
};

struct kern_linear {
    void *x; /* dev, held type, [row_n, k], rows contiguous (stride k); of a group of one site rows
              * with a scale effect there are scaled in place */
    uint32_t k;
    uint32_t site_n;
    struct kern_linear_site sites[4];
    enum kern_post post;
    struct kern_heads heads; /* KERN_POST_HEADS */
    float gate_multiplier;   /* KERN_POST_ACT_MUL */
    void *out;               /* dev: STORE f32, ACT_MUL held, PART part_bytes(row_n, n) */
};

/* h[row] = embedding row of each row's token, times multiplier. */
struct kern_embed {
    const void *w; /* dev: weight_pack of [vocab_n, hidden] */
    uint32_t vocab_n, hidden;
    float multiplier;
    float *h; /* dev [row_n, hidden] */
};

/* h += sum of multiplier * part; then x = held(rms_norm(h) * gain). part_n may be 0. */
struct kern_join {
    float *h; /* dev [row_n, hidden] */
    uint32_t hidden;
    uint32_t part_n;
    const void *parts[2]; /* dev: from KERN_POST_PART with n = hidden */
    float multipliers[2]; /* of the parts */
    const float *gain;    /* dev [hidden] */
    float eps;
    void *x; /* dev, held, [row_n, hidden] */
};

/* Ragged causal attention over the paged KV of kv_layer, prompt and generated rows alike: row at
 * position p sees positions 0..p of its sequence (its own k, v are written already).
 * q head h reads KV head h / (head_n / kv_head_n). With a gate the result is times its sigmoid. */
struct kern_attend {
    uint32_t kv_layer;
    uint32_t head_n, kv_head_n, head_dim;
    float scale;
    const float *q;    /* dev [row_n, head_n * head_dim] */
    const float *gate; /* dev, same shape, or NULL */
    void *out;         /* dev, held, same shape */
};

/* logits[i] = multiplier * W x[samples[i].row], fp32, for every sample of the step. */
struct kern_head {
    const void *x; /* dev, held, [row_n, hidden] */
    const void *w; /* dev: weight_pack of [vocab_n, hidden] */
    uint32_t vocab_n, hidden;
    float multiplier;
    float *logits; /* dev [sample_n, vocab_n] */
};

/* Picks a token per sample of the step (order of stages: kernels/README.md), remembers it as the
 * slot's last token and writes out[i]. Log-probabilities are those of the raw logits. */
struct kern_sample {
    const float *logits; /* dev [sample_n, vocab_n]; may be overwritten */
    uint32_t vocab_n;
    struct kern_token *out; /* dev [sample_n] */
};

/* For every score of the step: log-probability of its target and of the best alternatives, through
 * the head, in pieces of bounded memory. */
struct kern_score {
    const void *x;
    const void *w;
    uint32_t vocab_n, hidden;
    float multiplier;       /* of the logits, as in kern_head */
    float *logits;          /* dev scratch [logit_rows, vocab_n] */
    uint32_t logit_rows;    /* >= 1: rows of scratch */
    struct kern_token *out; /* dev [score_n] */
};

#endif
