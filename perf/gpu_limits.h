/* The kernels of gpu_limits: each asks one thing of the device and leaves a number that tells
 * whether it did. Launches are queued; the caller waits.
 *
 * Buffers hold gpu_word(i) at word i, so that what a kernel read or wrote has a known sum. */
#ifndef PERF_GPU_LIMITS_H
#define PERF_GPU_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_CHUNK 16384 /* bytes; buffers are multiples of it */

struct dev_stream;

/* Not linear in i: what stands whole matrices apart must not differ by 0 modulo 2^32 in a sum. */
BOTH_INLINE uint32_t gpu_word(size_t i)
{
    uint32_t x = (uint32_t)i * 2654435761u + 12345u;
    return x ^ x >> 15;
}

/* to[i] = gpu_word(i). */
void gpu_fill(struct dev_stream *stream, uint32_t block_n, uint32_t *to, size_t bytes);
/* *wrong += words of `p` that are not gpu_word(i). */
void gpu_verify(struct dev_stream *stream, uint32_t block_n, const uint32_t *p, size_t bytes,
                uint32_t *wrong);
/* *sum += every word. */
void gpu_read(struct dev_stream *stream, uint32_t block_n, const void *p, size_t bytes,
              uint32_t *sum);
void gpu_copy(struct dev_stream *stream, uint32_t block_n, void *to, const void *from,
              size_t bytes);

/* The linear's reads of `copy_n` matrices that stand one behind the other, and no more of its work.
 * Rows: as the narrow form of kernels/cuda/linear_mac.h has them, bf16 row-major. Tiles: what a
 * warp reads at once, 8 rows by 32 elements, is one piece of 512 bytes; a unit's pieces stand in
 * the order in which they are read, rows g before rows g + 8. */
struct gpu_weights {
    const void *w;
    uint32_t n, k; /* n a multiple of 16, k of 32 */
    uint32_t copy_n;
    uint32_t copy_first; /* counts in gpu_factor only */
    bool is_tiled;
    bool is_deep;  /* 8 steps of 32 elements are under way in a warp; else 2, as in the linear */
    uint32_t *sum; /* += sum of each lane's words of each part, times its gpu_factor */
};

/* Tells apart who read a word: unit (16 rows; those of all copies counted on), part of K (four for
 * each slice), lane. */
BOTH_INLINE uint32_t gpu_factor(uint32_t unit, uint32_t part_n, uint32_t part, uint32_t lane)
{
    return ((unit * part_n + part) * 32 + lane) * 2 + 1;
}

void gpu_weights_read(struct dev_stream *stream, uint32_t block_n, const struct gpu_weights *job,
                      bool is_pdl);

/* One block that does nothing; with `count`, *count += 1. */
void gpu_empty(struct dev_stream *stream, uint32_t *count, bool is_pdl);

/* What every warp of gpu_mma multiplies: GPU_MMA_A matrices A and GPU_MMA_B matrices B, all their
 * products summed loop_n times per B; small whole numbers, exact in fp32 up to GPU_MMA_LOOPS. */
#define GPU_MMA_A     2
#define GPU_MMA_B     8
#define GPU_MMA_WARPS 8     /* of a block */
#define GPU_MMA_LOOPS 32768 /* 16 products of 4 each, two A: 128 a loop, and 2^22 in all */

/* Within [-2, 2]; `which` counts A's first, then B's. */
BOTH_INLINE int gpu_mma_value(uint32_t which, uint32_t row, uint32_t k)
{
    return (int)(((which * 131 + row) * 17 + k) * 2654435761u >> 16) % 5 - 2;
}

/* Of an element of D, so that the sum tells which is wrong. */
BOTH_INLINE uint32_t gpu_mma_factor(uint32_t b, uint32_t row, uint32_t column)
{
    return ((b * 16 + row) * 8 + column) * 2 + 1;
}

/* *sum += every warp's elements of D times their factors. */
void gpu_mma(struct dev_stream *stream, uint32_t block_n, uint32_t loop_n, uint32_t *sum);

#ifdef __cplusplus
}
#endif

#endif
