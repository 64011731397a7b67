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
#define LINEAR_GROUP      64 /* rows of a group that is no head */
#define LINEAR_UNIT       16 /* rows of a unit of the narrow form */
#define LINEAR_WIDE       64 /* rows of a unit, and tokens of a tile, of the wide form */
#define LINEAR_WIDE_PITCH 96 /* elements; 64 bytes modulo 128, so that no two rows share banks */
#define LINEAR_BLOCKS     2  /* of a multiprocessor */

struct linear_cut {
    bool is_wide;
    uint32_t tile_tokens, tile_n;
    uint32_t group_rows, group_n;
    uint32_t unit_rows, unit_n; /* units of one group */
    uint32_t split_n;           /* slices that are dealt to blocks: all, or 1 in the wide form */
    uint32_t block_n;           /* for one tile; block b takes units of slice b % split_n */
    size_t smem;                /* bytes of dynamic shared memory */
};

static inline uint32_t linear_group_n(const struct kern_linear *op)
{
    uint32_t each = op->post == KERN_POST_ACT_MUL ? LINEAR_GROUP / 2 : LINEAR_GROUP;
    if (op->post == KERN_POST_HEADS) {
        return op->heads.head_n + 2 * op->heads.kv_head_n;
    }
    return (op->sites[0].n + each - 1) / each;
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
        return (size_t)LINEAR_WIDE * LINEAR_WIDE_PITCH * 2 + y;
    }
    return (size_t)cut->tile_tokens * linear_narrow_pitch(slice_k) * 2 + (red > y ? red : y);
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
        cut.tile_tokens = LINEAR_WIDE;
    } else if (token_n > 16 && cut.group_rows <= 128) {
        cut.tile_tokens = 32;
    } else {
        cut.tile_tokens = token_n > 8 ? 16 : 8;
    }
    cut.tile_n = (token_n + cut.tile_tokens - 1) / cut.tile_tokens;
    cut.unit_rows = cut.is_wide ? LINEAR_WIDE : LINEAR_UNIT;
    cut.unit_n = (cut.group_rows + cut.unit_rows - 1) / cut.unit_rows;
    cut.split_n = cut.is_wide ? 1 : linear_slice_n(op->k);
    cut.block_n = sm_n * LINEAR_BLOCKS / cut.tile_n;
    cut.block_n = cut.block_n > cut.split_n ? cut.block_n : cut.split_n;
    cut.smem = linear_smem(&cut, linear_slice_k(op->k));
    return cut;
}

#endif
