/* The law of order of the linear: how K is cut, the same on host and device, for every form.
 *
 * K falls into slices, a slice into four parts, a part into k16 steps of mma in ascending order. A
 * part is one chain from zero; parts are added in order, then slices in order, in fp32. Nothing
 * here depends on rows, on the grid or on the chip. */
#ifndef KERNELS_CUDA_LINEAR_ORDER_H
#define KERNELS_CUDA_LINEAR_ORDER_H

#include "base/dtype.h"

#define LINEAR_SLICE 1024 /* elements, about */
#define LINEAR_PARTS 4
#define LINEAR_STEP  32 /* elements that a warp reads at once: two k16 steps */

BOTH_INLINE uint32_t linear_slice_n(uint32_t k)
{
    return (k + LINEAR_SLICE - 1) / LINEAR_SLICE;
}

/* Elements of every slice but the last, which may be shorter; a multiple of LINEAR_STEP. */
BOTH_INLINE uint32_t linear_slice_k(uint32_t k)
{
    uint32_t n = linear_slice_n(k);
    return (k + n * LINEAR_STEP - 1) / (n * LINEAR_STEP) * LINEAR_STEP;
}

/* Elements of every part of a slice but the last ones. */
BOTH_INLINE uint32_t linear_part_k(uint32_t k)
{
    uint32_t each = LINEAR_PARTS * LINEAR_STEP;
    return (linear_slice_k(k) + each - 1) / each * LINEAR_STEP;
}

#endif
