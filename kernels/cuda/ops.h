/* What the .cu files export: one plain C function per op. Each queues its launches on the context's
 * stream and returns. Rank thread.
 *
 * A launch may depend on the context and the op's arguments only, never on the step's records:
 * under capture the records are not there yet. Grids are sized by row_cap, sample_cap and the
 * device; blocks without work return after a look at the header. */
#ifndef KERNELS_CUDA_OPS_H
#define KERNELS_CUDA_OPS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"
#include "kernels/cuda/step.h"
#include "kernels/kern_ops.h"
#include "kernels/kern_recurrent.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_gemm;
struct dev_stream;
struct weights_random;

/* What a device was opened for; sizes workspaces. */
struct cuda_limits {
    uint32_t row_max;     /* rows of one part */
    uint32_t slot_max;    /* sequence slots */
    uint32_t page_stride; /* pages of one sequence, at most */
    uint32_t page_n;      /* KV pages of one layer */
    uint32_t head_n;      /* query heads */
    uint32_t kv_head_n;
    uint32_t head_dim;
    uint32_t k_max;    /* inputs of a linear */
    uint32_t n_max;    /* outputs of a linear group */
    uint64_t nk_max;   /* outputs times inputs of a linear group, the head among them */
    uint32_t vocab_n;  /* outputs of the head */
    uint32_t rank_max; /* sum of ranks that one group may meet in one row */
    uint32_t rotary_n;
};

struct cuda_ctx {
    struct dev_stream *stream;
    enum dtype held; /* DTYPE_BF16 or DTYPE_F16 */
    uint32_t sm_n;
    size_t shared_per_block;
    struct cuda_gemm *gemm; /* base products of prompts */
    struct cuda_limits limits;
    struct cuda_kv kv;
    struct cuda_state state;

    /* The part. */
    const struct cuda_step *step; /* device */
    uint32_t row_cap;             /* step->row_n <= row_cap: exact when eager, else the bucket */
    uint32_t sample_cap;          /* step->sample_n <= sample_cap */
    uint32_t score_n;             /* exact; 0 under capture */
    uint32_t tile_n;              /* of attention, for one KV head: exact; prompt form only */
    uint32_t run_cap;             /* step->run_n <= run_cap: exact when eager */
    bool is_prompt;               /* prompt form: eager, rows of prompts */
    bool has_lowrank;             /* false: the part has no tiles */
    const float *inv_freq;        /* device [rotary_n / 2] */
    uint32_t rotary_n;
    float rope_scale;

    /* State and workspaces in device memory, zero at open. */
    float *rope;          /* [row_max][rotary_n / 2][2]: cos, sin times rope_scale; cuda_begin */
    uint32_t *slot_token; /* [slot_max]: last sampled token */
    void *linear;         /* cuda_linear_bytes */
    void *attention;      /* cuda_attend_bytes */
    void *sampling;       /* cuda_sample_bytes: scratch, and counts of the slots' tokens */
    unsigned *saturated;  /* values beyond fp16 that were saturated, all steps together */
};

/* Columns of a held [n, k] matrix from row to row; those behind k are zero. */
static inline uint32_t cuda_stride(uint32_t k)
{
    return (k + 15) / 16 * 16;
}

/* Query heads of a KV head. */
static inline uint32_t cuda_group(const struct cuda_limits *limits)
{
    return limits->kv_head_n ? limits->head_n / limits->kv_head_n : 0;
}

/* Splits that attention's workspace holds for one part of generated rows: every page's, a ragged
 * one for each row, and one sequence's more, so that any row fits. */
static inline uint32_t cuda_split_max(const struct cuda_limits *limits)
{
    uint32_t pages = limits->page_n + limits->page_stride;
    return pages * LIMIT_KV_PAGE / CUDA_SPLIT + limits->row_max + 1;
}

/* Workspaces for the limits. linear.cu, attend.cu, sample.cu. */
size_t cuda_linear_bytes(const struct cuda_limits *limits, uint32_t sm_n);
size_t cuda_attend_bytes(const struct cuda_limits *limits);
size_t cuda_sample_bytes(const struct cuda_limits *limits);

/* Where base sums and partial ones go: gemm_product_n(row_max, n_max) floats at least. linear.cu.
 */
float *cuda_linear_work(const struct cuda_ctx *ctx);

/* First of a part: applies page changes, fills rope. begin.cu. */
void cuda_begin(const struct cuda_ctx *ctx);
/* Second, for generated rows: the part's work list of attention. attend.cu. */
void cuda_attend_begin(const struct cuda_ctx *ctx);

void cuda_embed(const struct cuda_ctx *ctx, const struct kern_embed *op);
void cuda_join(const struct cuda_ctx *ctx, const struct kern_join *op);
void cuda_linear(const struct cuda_ctx *ctx, const struct kern_linear *op);
void cuda_attend(const struct cuda_ctx *ctx, const struct kern_attend *op);
/* The prompt form of cuda_attend, which calls it. attend_prompt.cu. */
void cuda_attend_prompt(const struct cuda_ctx *ctx, const struct kern_attend *op);
/* recurrent.cu; the recurrence itself: recurrent_step.cu, recurrent_chunk.cu. */
void cuda_gdn(const struct cuda_ctx *ctx, const struct kern_gdn *op);
void cuda_ssd(const struct cuda_ctx *ctx, const struct kern_ssd *op);
void cuda_head(const struct cuda_ctx *ctx, const struct kern_head *op);
void cuda_sample(const struct cuda_ctx *ctx, const struct kern_sample *op);
void cuda_score(const struct cuda_ctx *ctx, const struct kern_score *op);

/* out[i] = multiplier * W x[row of entry first + i] in fp32 for i < min(cap, entries - first), the
 * entries being the part's samples or scores. Rows of out behind those are not written. linear.cu;
 * what the head of samples and scores is made of. */
enum cuda_gather_from { CUDA_GATHER_SAMPLES, CUDA_GATHER_SCORES };

struct cuda_gather {
    const void *x; /* dev, held, [row_n, k] */
    const void *w; /* dev, packed [n, k] */
    uint32_t n, k;
    enum cuda_gather_from from;
    uint32_t first;
    uint32_t cap;
    float multiplier;
    float *out; /* dev [cap, n] */
};
void cuda_logits(const struct cuda_ctx *ctx, const struct cuda_gather *op);

/* Fills a held [n, stride] matrix with generated values. random.cu. */
void cuda_random(struct dev_stream *stream, enum dtype held, uint32_t sm_n,
                 const struct weights_random *src, void *to_dev);

#ifdef __cplusplus
}
#endif

#endif
