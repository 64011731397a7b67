/* The device of ref: host memory, the views of the running step, and scratch for one row.
 *
 * Sums. Every sum of ref is one chain in fp32, ascending, each term a plain product and a plain sum
 * (two roundings, no fma). That is its whole order, so rows never touch one another. */
#ifndef KERNELS_REF_INT_H
#define KERNELS_REF_INT_H

#include "base/base.h"
#include "kernels/immediate.h"
#include "kernels/kern.h"
#include "kernels/sample.h"

struct ref_block; /* one reserved piece of memory */

struct kern_dev {
    struct kern_open args;
    struct ref_block *blocks; /* newest first */
    struct kern_kv kv;
    void *kv_data;
    struct kern_state state;
    float *state_data;
    const void **versions; /* [version_max]: effect blocks, NULL where none */
    uint32_t *slot_token;  /* [slot_max]: last sampled token */
    uint16_t *counts;      /* [slot_max, vocab_n]: tokens so far (kernels/sample.h) */

    /* Of the running step; rows is NULL between steps. */
    struct kern_step step;
    bool is_part_given;
    struct kern_unread unread;
    const struct kern_seq **row_seq; /* [row_max]; NULL: the row is in no sequence */
    float *row_cos;                  /* [row_max, LIMIT_HEAD_DIM / 2] */
    float *row_sin;

    /* Scratch of one row. */
    float *x; /* [k_max]: an input, widened to fp32 */
    float *y; /* [n_max]: outputs of all sites of a group, one after another */
    float *u; /* [rank_max]: A x of one low-rank effect */
    struct sample_scratch sample;
};

/* Element i of an array of the held type. */
static inline float ref_load(const struct kern_dev *dev, const void *held, size_t i)
{
    if (dev->args.held == DTYPE_BF16) {
        return bf16_to_f32(((const uint16_t *)held)[i]);
    }
    return ((const float *)held)[i];
}

/* Rounds f to the held type, the only rounding of an output. */
static inline void ref_store(const struct kern_dev *dev, void *held, size_t i, float f)
{
    if (dev->args.held == DTYPE_BF16) {
        ((uint16_t *)held)[i] = bf16_from_f32(f);
    } else {
        ((float *)held)[i] = f;
    }
}

/* K (which 0) or V (1) of one position and KV head: head_dim values of the held type. */
void *ref_kv_at(const struct kern_dev *dev, const struct kern_seq *seq, uint32_t layer,
                uint32_t which, uint32_t kv_head, uint32_t pos);

/* Sum of w[at + i] * x[i] over i < k; w is of the held type. */
float ref_dot(const struct kern_dev *dev, const void *w, size_t at, uint32_t k, const float *x);

/* y[0..n) = W x for a packed W [n, k]; x is fp32. */
void ref_matvec(const struct kern_dev *dev, const void *w, uint32_t n, uint32_t k, const float *x,
                float *y);

/* v *= factor. */
static inline void ref_scale(float *v, uint32_t n, float factor)
{
    for (uint32_t i = 0; i < n; i++) {
        v[i] *= factor;
    }
}

/* Row `row` of a held matrix, widened into dev->x. */
const float *ref_widen(struct kern_dev *dev, const void *x, uint32_t row, uint32_t k);

void ref_embed(struct kern_dev *dev, const struct kern_embed *op);
void ref_join(struct kern_dev *dev, const struct kern_join *op);
void ref_linear(struct kern_dev *dev, const struct kern_linear *op);
void ref_attend(struct kern_dev *dev, const struct kern_attend *op);
void ref_gdn(struct kern_dev *dev, const struct kern_gdn *op);
void ref_ssd(struct kern_dev *dev, const struct kern_ssd *op);
void ref_head(struct kern_dev *dev, const struct kern_head *op);
void ref_sample(struct kern_dev *dev, const struct kern_sample *op);
void ref_score(struct kern_dev *dev, const struct kern_score *op);

#endif
