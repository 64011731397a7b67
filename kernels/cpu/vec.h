/* Sixteen fp32 lanes, the unit of all vector code: `struct vec` and the functions on it.
 *
 * A path's source defines CPU_VEC_AVX512 or CPU_VEC_AVX2 before the first include; without one the
 * plain C form is taken. The lanes, the order of every reduction and each rounding are the same in
 * all three, so one source compiled for each gives the same bits on each. */
#ifndef KERNELS_CPU_VEC_H
#define KERNELS_CPU_VEC_H

#if defined(CPU_VEC_AVX512)
#include "kernels/cpu/vec_avx512.h"
#elif defined(CPU_VEC_AVX2)
#include "kernels/cpu/vec_avx2.h"
#else
#include "kernels/cpu/vec_portable.h"
#endif

#define VEC_N 16u

/* A pragma before a loop of constant bounds: its arrays of vectors shall become registers. Not in
 * plain C, and not under sanitizers (CPU_ROLLED): they look at every access, so that one loop for
 * all shapes is compiled there instead of one per shape. */
#if defined(CPU_ROLLED) || (!defined(CPU_VEC_AVX512) && !defined(CPU_VEC_AVX2))
#define VEC_UNROLL
#elif defined(__clang__)
#define VEC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define VEC_UNROLL _Pragma("GCC unroll 16")
#endif

/* e^x to about 2 units in the last place; x below -87 counts as -87, above 88 as 88. */
static inline struct vec vec_exp(struct vec x)
{
    const struct vec shift = vec_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    x = vec_max(vec_set1(-87.0f), x);
    x = vec_min(vec_set1(88.0f), x);
    struct vec t = vec_fma(x, vec_set1(1.44269504f), shift);
    struct vec n = vec_sub(t, shift);
    struct vec r = vec_fma(n, vec_set1(-0.693359375f), x);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    struct vec y = vec_set1(1.0f / 5040.0f);
    y = vec_fma(y, r, vec_set1(1.0f / 720.0f));
    y = vec_fma(y, r, vec_set1(1.0f / 120.0f));
    y = vec_fma(y, r, vec_set1(1.0f / 24.0f));
    y = vec_fma(y, r, vec_set1(1.0f / 6.0f));
    y = vec_fma(y, r, vec_set1(0.5f));
    y = vec_fma(y, r, vec_set1(1.0f));
    y = vec_fma(y, r, vec_set1(1.0f));
    return vec_mul(y, vec_pow2(t));
}

#endif
