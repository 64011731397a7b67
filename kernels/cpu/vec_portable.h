/* struct vec in plain C: the definition of what every form of it computes.
 *
 * fmaf rounds once wherever it is compiled; with a fused instruction the loops become vector code,
 * without one they call libm. Either way the bits are the same. */
#ifndef KERNELS_CPU_VEC_PORTABLE_H
#define KERNELS_CPU_VEC_PORTABLE_H

#include <math.h>

#include "base/base.h"
#include "base/dtype.h"

struct vec {
    float f[16];
};

#define VEC_EACH for (uint32_t vec_i = 0; vec_i < 16; vec_i++)

static inline struct vec vec_set1(float f)
{
    struct vec r;
    VEC_EACH
    {
        r.f[vec_i] = f;
    }
    return r;
}

static inline struct vec vec_load(const float *p)
{
    struct vec r;
    memcpy(r.f, p, sizeof r.f);
    return r;
}

/* The first n lanes from memory, zeros behind them. */
static inline struct vec vec_load_n(const float *p, uint32_t n)
{
    struct vec r = {{0}};
    memcpy(r.f, p, n * sizeof r.f[0]);
    return r;
}

static inline void vec_store(float *p, struct vec a)
{
    memcpy(p, a.f, sizeof a.f);
}

static inline void vec_store_n(float *p, struct vec a, uint32_t n)
{
    memcpy(p, a.f, n * sizeof a.f[0]);
}

#define VEC_BINARY(name, expression)                                                               \
    static inline struct vec name(struct vec a, struct vec b)                                      \
    {                                                                                              \
        struct vec r;                                                                              \
        VEC_EACH                                                                                   \
        {                                                                                          \
            float x = a.f[vec_i];                                                                  \
            float y = b.f[vec_i];                                                                  \
            r.f[vec_i] = (expression);                                                             \
        }                                                                                          \
        return r;                                                                                  \
    }

VEC_BINARY(vec_add, x + y)
VEC_BINARY(vec_sub, x - y)
VEC_BINARY(vec_mul, x *y)
VEC_BINARY(vec_div, x / y)
VEC_BINARY(vec_max, x > y ? x : y) /* y when either is a NaN */
VEC_BINARY(vec_min, x < y ? x : y)

/* a * b + c, rounded once. */
static inline struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    struct vec r;
    VEC_EACH
    {
        r.f[vec_i] = fmaf(a.f[vec_i], b.f[vec_i], c.f[vec_i]);
    }
    return r;
}

/* The first n lanes of a, the others of `other`. */
static inline struct vec vec_first(struct vec a, uint32_t n, struct vec other)
{
    struct vec r;
    VEC_EACH
    {
        r.f[vec_i] = vec_i < n ? a.f[vec_i] : other.f[vec_i];
    }
    return r;
}

/* 2^k of t = 1.5 * 2^23 + k, -126 <= k <= 127. */
static inline struct vec vec_pow2(struct vec t)
{
    struct vec r;
    VEC_EACH
    {
        r.f[vec_i] = f32_of_bits((f32_bits(t.f[vec_i]) << 23) + 0x3F800000u);
    }
    return r;
}

/* Lane i joins lane i + 8, then i + 4, i + 2, i + 1. */
static inline float vec_sum(struct vec a)
{
    for (uint32_t width = 8; width > 0; width /= 2) {
        for (uint32_t i = 0; i < width; i++) {
            a.f[i] = a.f[i] + a.f[i + width];
        }
    }
    return a.f[0];
}

static inline float vec_largest(struct vec a)
{
    for (uint32_t width = 8; width > 0; width /= 2) {
        for (uint32_t i = 0; i < width; i++) {
            a.f[i] = a.f[i] > a.f[i + width] ? a.f[i] : a.f[i + width];
        }
    }
    return a.f[0];
}

/* The even, the odd elements of 16 pairs of bf16 (64 bytes). */
static inline struct vec vec_even(const void *pairs)
{
    uint32_t u[16];
    struct vec r;
    memcpy(u, pairs, sizeof u);
    VEC_EACH
    {
        r.f[vec_i] = f32_of_bits(u[vec_i] << 16);
    }
    return r;
}

static inline struct vec vec_odd(const void *pairs)
{
    uint32_t u[16];
    struct vec r;
    memcpy(u, pairs, sizeof u);
    VEC_EACH
    {
        r.f[vec_i] = f32_of_bits(u[vec_i] & 0xFFFF0000u);
    }
    return r;
}

static inline struct vec vec_load_bf16(const uint16_t *p)
{
    struct vec r;
    VEC_EACH
    {
        r.f[vec_i] = bf16_to_f32(p[vec_i]);
    }
    return r;
}

static inline void vec_store_bf16(uint16_t *p, struct vec a)
{
    VEC_EACH
    {
        p[vec_i] = bf16_from_f32(a.f[vec_i]);
    }
}

#endif
