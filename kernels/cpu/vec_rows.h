/* Loads and stores of a row's vectors, the last one ragged, and what rows have in common. */
#ifndef KERNELS_CPU_VEC_ROWS_H
#define KERNELS_CPU_VEC_ROWS_H

#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/cpu/vec.h"

static ALWAYS_INLINE struct vec rows_load(const float *p, uint32_t n)
{
    return n >= VEC_N ? vec_load(p) : vec_load_n(p, n);
}

static ALWAYS_INLINE void rows_store(float *p, struct vec a, uint32_t n)
{
    if (n >= VEC_N) {
        vec_store(p, a);
    } else {
        vec_store_n(p, a, n);
    }
}

/* Stores elements [i, min(i + 16, n)) of a row of the held type. */
static ALWAYS_INLINE void rows_store_held(enum dtype held, void *row, uint32_t i, struct vec a,
                                          uint32_t n)
{
    uint16_t tail[VEC_N];
    if (held == DTYPE_F32) {
        rows_store((float *)row + i, a, n - i);
    } else if (n - i >= VEC_N) {
        vec_store_bf16((uint16_t *)row + i, a);
    } else {
        vec_store_bf16(tail, a);
        memcpy((uint16_t *)row + i, tail, (n - i) * sizeof tail[0]);
    }
}

/* Elements [i, min(i + 16, n)) of a row of the held type, zeros behind it. */
static ALWAYS_INLINE struct vec rows_load_held(enum dtype held, const void *row, uint32_t i,
                                               uint32_t n)
{
    uint16_t tail[VEC_N] = {0};
    if (held == DTYPE_F32) {
        return rows_load((const float *)row + i, n - i);
    }
    if (n - i >= VEC_N) {
        return vec_load_bf16((const uint16_t *)row + i);
    }
    memcpy(tail, (const uint16_t *)row + i, (n - i) * sizeof tail[0]);
    return vec_load_bf16(tail);
}

static inline float rows_inverse_rms(struct vec squares, uint32_t n, float eps)
{
    return 1.0f / sqrtf(vec_sum(squares) / (float)n + eps);
}

static ALWAYS_INLINE struct vec rows_silu(struct vec g)
{
    struct vec e = vec_exp(vec_sub(vec_set1(0.0f), g));
    return vec_div(g, vec_add(vec_set1(1.0f), e));
}

#endif
