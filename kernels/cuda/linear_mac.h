/* The linear's products: weight rows against tokens by mma, weights straight from memory.
 *
 * Weights are mma's 16-row operand, tokens its 8 columns. Lane (g, t) loads 16 contiguous bytes of
 * rows g and g + 8 at k + 8 t; the k index is permuted alike on both operands, so row-major weights
 * need no shuffle and no shared memory. */
#ifndef KERNELS_CUDA_LINEAR_MAC_H
#define KERNELS_CUDA_LINEAR_MAC_H

#include "kernels/cuda/linear.h"

/* Where a lane's rows begin, at the slice's first element; NULL: a row of zeros. Two 16-row tiles.
 */
struct linear_rows {
    const void *row[4]; /* g, g + 8, g + 16, g + 24 */
    ld_class cls;
};

/* Elements left in a row from the slice's first one; what lies behind is not read. */
template <class T>
static DEV uint4 linear_load(const linear_rows &rows, int i, uint32_t k, uint32_t left)
{
    const T *row = static_cast<const T *>(rows.row[i]);
    return row && k < left ? ld16(rows.cls, row + k) : make_uint4(0, 0, 0, 0);
}

/* acc += rows * x for one step of 32 elements; x: the lane's 16 bytes of each column tile. */
template <class T, int NT, int M>
static DEV void linear_step(float (&acc)[M][NT][4], const uint4 (&w)[2 * M], const uint4 (&x)[NT])
{
    UNROLL
    for (int m = 0; m < M; m++) {
        uint4 a = w[2 * m];
        uint4 b = w[2 * m + 1];
        uint32_t low[4] = {a.x, b.x, a.y, b.y};
        uint32_t high[4] = {a.z, b.z, a.w, b.w};
        UNROLL
        for (int n = 0; n < NT; n++) {
            uint32_t xl[2] = {x[n].x, x[n].y};
            uint32_t xh[2] = {x[n].z, x[n].w};
            mma<T>(acc[m][n], low, xl);
            mma<T>(acc[m][n], high, xh);
        }
    }
}

/* Elements [begin, end) of a slice; x in shared memory from element `at` on, `pitch` elements a
 * token. M: 16-row tiles of the lane's rows; with one of them two steps are loaded at once, so that
 * as many bytes are under way. */
template <class T, int NT, int M>
static DEV void linear_part(float (&acc)[M][NT][4], const linear_rows &rows, uint32_t left,
                            const T *xs, uint32_t pitch, uint32_t at, uint32_t begin, uint32_t end)
{
    const uint32_t steps = 2 / M;
    uint32_t g = threadIdx.x % 32 / 4;
    uint32_t t = threadIdx.x % 4;
    for (uint32_t first = begin; first < end; first += steps * LINEAR_STEP) {
        uint4 w[steps][2 * M];
        UNROLL
        for (uint32_t s = 0; s < steps; s++) {
            uint32_t k = first + s * LINEAR_STEP;
            UNROLL
            for (int i = 0; i < 2 * M; i++) {
                w[s][i] = linear_load<T>(rows, i, k + 8 * t, k < end ? left : 0);
            }
        }
        UNROLL
        for (uint32_t s = 0; s < steps; s++) {
            uint32_t k = first + s * LINEAR_STEP;
            uint4 x[NT];
            if (k >= end) {
                break;
            }
            UNROLL
            for (int n = 0; n < NT; n++) {
                x[n] = *reinterpret_cast<const uint4 *>(xs + (n * 8 + g) * pitch + k - at + 8 * t);
            }
            linear_step<T, NT, M>(acc, w[s], x);
        }
    }
}

#endif
