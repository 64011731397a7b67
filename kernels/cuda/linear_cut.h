/* How a launch of the linear is cut into tiles of tokens, units of weight rows and blocks. Pure
 * functions: the launcher uses them, and so does the table of perf/cuda-tables.md.
 *
 * Slices of K follow linear_order.h, whatever is decided here: bits do not depend on it. */
#ifndef KERNELS_CUDA_LINEAR_CUT_H
#define KERNELS_CUDA_LINEAR_CUT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cuda/linear_order.h"
#include "kernels/kern_ops.h"

#define LINEAR_WARPS      4
#define LINEAR_GROUP      64  /* rows of a group that is no head */
#define LINEAR_UNIT       16  /* rows of a unit of the narrow form */
#define LINEAR_WIDE       64  /* rows of a unit of the wide form */
#define LINEAR_TOKENS     128 /* of its larger tile; the smaller one has half of it */
#define LINEAR_CHUNK      64  /* elements of x that it stages at once */
#define LINEAR_SPLIT_ROWS 256 /* of x, at most, where it cuts K over units */
#define LINEAR_SPLIT_MAX  ((size_t)24 << 20) /* partial sums of such a launch */
#define LINEAR_SPLIT_GAIN 1.05               /* of the device's time, that a cut must bring */
#define LINEAR_WIDE_PITCH 96 /* elements; 64 bytes modulo 128, so that no two rows share banks */
#define LINEAR_BLOCKS     2  /* of a multiprocessor */

struct linear_cut {
    bool is_wide;
    uint32_t tile_tokens, tile_n;
    uint32_t group_rows, group_n;
    uint32_t unit_rows, unit_n; /* units of one group */
    uint32_t split_n;           /* units of K: its slices, or 1 */
    uint32_t block_n;           /* for one tile; narrow: block b takes units of slice b % split_n */
    size_t smem;                /* bytes of dynamic shared memory */
};

/* Heads of the q site: queries, and their gates. */
BOTH_INLINE uint32_t linear_query_heads(const struct kern_heads *heads)
{
    return heads->gate_out ? 2 * heads->head_n : heads->head_n;
}

/* Groups of one site of a post that takes its sites one by one. */
BOTH_INLINE uint32_t linear_site_groups(const struct kern_linear *op, uint32_t site)
{
    return (op->sites[site].n + LINEAR_GROUP - 1) / LINEAR_GROUP;
}

static inline uint32_t linear_group_n(const struct kern_linear *op)
{
    uint32_t n = 0;
    if (op->post == KERN_POST_HEADS) {
        return linear_query_heads(&op->heads) + 2 * op->heads.kv_head_n;
    }
    if (op->post == KERN_POST_ACT_MUL) {
        return (op->sites[0].n + LINEAR_GROUP / 2 - 1) / (LINEAR_GROUP / 2);
    }
    for (uint32_t s = 0; s < op->site_n; s++) {
        n += linear_site_groups(op, s);
    }
    return n;
}

/* Pitch of x in shared memory: 64 bytes modulo 128 where the slice is a multiple of 128 bytes. */
BOTH_INLINE uint32_t linear_narrow_pitch(uint32_t slice_k)
{
    return slice_k % 64 == 0 ? slice_k + 32 : slice_k;
}

static inline size_t linear_smem(const struct linear_cut *cut, uint32_t slice_k)
{
    size_t y = (size_t)cut->group_rows * (cut->tile_tokens + 1) * sizeof(float);
    size_t red = (size_t)LINEAR_WARPS * LINEAR_UNIT * cut->tile_tokens * sizeof(float);
    if (cut->is_wide) {
        size_t xs = (size_t)2 * cut->tile_tokens * LINEAR_WIDE_PITCH * 2;
        y = (size_t)cut->group_rows * (32 + 1) * sizeof(float);
        return xs > y ? xs : y;
    }
    return (size_t)cut->tile_tokens * linear_narrow_pitch(slice_k) * 2 + (red > y ? red : y);
}

/* Units over rounds times blocks. */
static inline double linear_fill(const struct linear_cut *cut, uint32_t split_n)
{
    uint32_t units = cut->group_n * cut->unit_n * split_n;
    uint32_t rounds = (units + cut->block_n - 1) / cut->block_n;
    return (double)units / ((double)rounds * cut->block_n);
}

/* Whether the wide form cuts K: partial sums cost memory traffic, so only for a fuller device. */
static inline uint32_t linear_wide_split(const struct linear_cut *cut, uint32_t k, uint32_t token_n)
{
    uint32_t slice_n = linear_slice_n(k);
    size_t sums = (size_t)slice_n * cut->group_n * cut->group_rows * cut->tile_n * cut->tile_tokens;
    bool may_split = token_n <= LINEAR_SPLIT_ROWS && sums <= LINEAR_SPLIT_MAX;
    bool is_fuller = linear_fill(cut, slice_n) > LINEAR_SPLIT_GAIN * linear_fill(cut, 1);
    return may_split && is_fuller ? slice_n : 1;
}

/* For token_n rows of x on a device of sm_n multiprocessors. Two blocks for each of them over all
 * tiles, and one for each slice at least. */
static inline struct linear_cut linear_cut_of(const struct kern_linear *op, uint32_t token_n,
                                              uint32_t sm_n)
{
    struct linear_cut cut;
    cut.is_wide = token_n > 32;
    cut.group_rows = op->post == KERN_POST_HEADS ? op->heads.head_dim : LINEAR_GROUP;
    cut.group_n = linear_group_n(op);
    if (cut.is_wide) {
        cut.tile_tokens = token_n > LINEAR_TOKENS / 2 ? LINEAR_TOKENS : LINEAR_TOKENS / 2;
    } else if (token_n > 16 && cut.group_rows <= 128) {
        cut.tile_tokens = 32;
    } else {
        cut.tile_tokens = token_n > 8 ? 16 : 8;
    }
    cut.tile_n = (token_n + cut.tile_tokens - 1) / cut.tile_tokens;
    cut.unit_rows = cut.is_wide ? LINEAR_WIDE : LINEAR_UNIT;
    cut.unit_n = (cut.group_rows + cut.unit_rows - 1) / cut.unit_rows;
    cut.block_n = sm_n * LINEAR_BLOCKS / cut.tile_n;
    cut.block_n = cut.block_n > 0 ? cut.block_n : 1;
    cut.split_n = cut.is_wide ? linear_wide_split(&cut, op->k, token_n) : linear_slice_n(op->k);
    if (!cut.is_wide && cut.block_n < cut.split_n) {
        cut.block_n = cut.split_n;
    }
    cut.smem = linear_smem(&cut, linear_slice_k(op->k));
    return cut;
}

#endif
