/* Kernels that use the words of dev.h rightly: their results must not depend on orders or grids. */
#ifndef TESTS_EMU_SAMPLES_H
#define TESTS_EMU_SAMPLES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SAMPLE_N    64u
#define SAMPLE_K    320u
#define SAMPLE_ROWS 8u
#define SAMPLE_BINS 32u

/* Values that sums keep apart from another order's: no power of two, not exact in sums. */
static inline float sample_weight(uint32_t n, uint32_t k)
{
    return (float)((int)((n * 37 + k * 101 + n * k) % 255) - 127) / 64.0f;
}

static inline float sample_x(uint32_t row, uint32_t k)
{
    return (float)((int)((row * 59 + k * 13 + row * k * 7) % 199) - 99) / 97.0f;
}

/* out[row][n] = W x with both in `held`: tickets, asynchronous copies, ldmatrix, mma, a join. */
void sample_linear(enum dtype held, bool is_trans, uint32_t grid, float *out);

/* out[row][k] = x / sqrt(mean of squares + 1): shuffles and shared memory. A block takes every
 * grid-th row. */
void sample_rms(uint32_t grid, float *out);

/* out[bin] = how many of sample_x fall into it, and how many of those are negative behind: atomics
 * in shared and in global memory, ballot. */
void sample_bins(uint32_t grid, uint32_t *out);

#ifdef __cplusplus
}
#endif

#endif
