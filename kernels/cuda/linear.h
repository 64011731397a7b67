/* The linear, inside: what its kernel knows of a launch, its work and its memory.
 *
 * Work. A group is what a post needs whole: one head, or 32 gate and 32 up rows, or 64 rows. A unit
 * is some rows of a group (or of an adapter's A) times one slice of K, for one tile of tokens.
 * Blocks own a slice and take units by ticket, those of adapters first; the last block to add its
 * partial sum to a group finishes it: it adds the slices in order and the bias, multiplies scales
 * and expands every low-rank effect in segment order, and applies the post. Only that block ever
 * waits, and only for units with lower tickets than its own.
 *
 * Forms. Up to 32 rows: a unit is 16 weight rows, the block's tokens are one tile of 8, 16 or 32
 * whose slice of x stays in shared memory, four warps take the four parts of the slice. More rows
 * (linear_wide.h): a unit is 64 weight rows by 64 or 128 tokens, for one slice or for all of them,
 * four warps take 16 rows each and go through the parts one after the other. The chains are the
 * same, so the bits are. */
#ifndef KERNELS_CUDA_LINEAR_H
#define KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/dev.h"
#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/ops.h"

#define LINEAR_THREADS 128
#define LINEAR_SITES   4 /* of one group of linears */
#define LINEAR_TILES                                                                               \
    1024 /* adapter tiles of one tile of tokens: 128 rows, LIMIT_REQUEST_ADAPTERS each */
#define LINEAR_ALIGN  64 /* words: pieces of the workspace */
#define LINEAR_FINISH 32 /* tokens that the wide form finishes at once: a pass */

/* Counters of one tile of tokens; all zero between launches. */
struct linear_counters {
    unsigned leave;
    unsigned u_ready;
    unsigned tickets[1]; /* [slices], then one per group */
};

struct linear_job {
    const cuda_step *step;
    kern_linear op;
    uint32_t stride; /* elements from weight row to weight row */
    uint32_t slice_n, slice_k, part_k;
    uint32_t group_n, group_rows, unit_n; /* unit_n of one group */
    uint32_t split_n;                     /* wide: units of each of them, one a slice, or 1 */
    bool has_lowrank;                     /* adapters have tiles */
    bool has_scales;                      /* some of them scale */
    /* Rows of x by a list: of samples or scores from `first` on; else the part's own rows. */
    bool is_gathered;
    cuda_gather_from from;
    uint32_t first, cap;
    /* Base sums that are there already (gemm.h); NULL: the launch makes them. */
    const float *product;
    /* Memory, by tile of tokens. */
    unsigned *counters; /* [token tiles][counter_stride] */
    uint32_t counter_stride;
    float *partial; /* [token tiles][slices][group_n * group_rows][tokens] */
    float *u;       /* [token tiles][slices][u_stride] */
    size_t u_stride;
    float store_multiplier; /* KERN_POST_STORE */
    /* Heads. */
    cuda_kv kv;
    const float *rope; /* [row][rotary_n / 2][2] */
    uint32_t rotary_n;
    unsigned *saturated;
};

#endif
