/* The arithmetic of the bf16 dot-product instructions in plain C: fused multiply-add, round to
 * nearest even, denormal inputs count as zeros of their sign, tiny results become such zeros.
 *
 * A result is tiny when, rounded as if exponents had no lower end, it lies below the smallest
 * normal number. fmaf rounds at the coarser step of denormals there, so a result that it puts on
 * that number is looked at again, exactly. */
#ifndef KERNELS_CPU_STAND_IN_H
#define KERNELS_CPU_STAND_IN_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#include "base/base.h"
#include "base/dtype.h"

/* A zero of f's sign when f is denormal, else f. */
static inline float stand_in_flush(float f)
{
    uint32_t u = f32_bits(f);
    return f32_of_bits(u & 0x7F800000u ? u : u & 0x80000000u);
}

/* a * b + c fell on +-FLT_MIN: was it rounded up from below? a * b is exact in double. */
static inline float stand_in_at_edge(float a, float b, float c, float r)
{
    double x = (double)a * (double)b;
    double y = c;
    double sum = x + y;
    double y_part = sum - x;
    double rest = (x - (sum - y_part)) + (y - y_part);
    double edge = FLT_MIN * (1.0 - 0x1p-25);
    double over = copysign(1.0, sum) * (sum - copysign(edge, sum));
    double rest_over = copysign(1.0, sum) * rest;
    return over > 0 || (over == 0 && rest_over >= 0) ? r : copysignf(0.0f, r);
}

/* acc[i] = a * w[i] + acc[i] for 16 lanes of flushed values. */
static inline void stand_in_fma(float *acc, float a, const float *w)
{
    float r[16];
    uint32_t edge = 0;
    for (uint32_t i = 0; i < 16; i++) {
        r[i] = fmaf(a, w[i], acc[i]);
        edge |= (f32_bits(r[i]) & 0x7FFFFFFFu) == 0x00800000u;
    }
    for (uint32_t i = 0; i < 16 && UNLIKELY(edge); i++) {
        r[i] = fabsf(r[i]) == FLT_MIN ? stand_in_at_edge(a, w[i], acc[i], r[i]) : r[i];
    }
    for (uint32_t i = 0; i < 16; i++) {
        acc[i] = stand_in_flush(r[i]);
    }
}

/* Splits 16 pairs into their even (low) and odd (high) values, denormals flushed. */
static inline void stand_in_split(const void *pairs, float *even, float *odd)
{
    uint32_t word[16];
    memcpy(word, pairs, sizeof word);
    for (uint32_t i = 0; i < 16; i++) {
        even[i] = stand_in_flush(f32_of_bits(word[i] << 16));
        odd[i] = stand_in_flush(f32_of_bits(word[i] & 0xFFFF0000u));
    }
}

/* vdpbf16ps of a broadcast pair: the odd products first, each accumulated on its own. Never
 * inlined: the product's unrolled loops would multiply it by hundreds. */
static __attribute__((noinline, unused)) void stand_in_dp(float *acc, uint32_t x, const void *pairs)
{
    float even[16];
    float odd[16];
    stand_in_split(pairs, even, odd);
    for (uint32_t i = 0; i < 16; i++) {
        acc[i] = stand_in_flush(acc[i]);
    }
    stand_in_fma(acc, stand_in_flush(f32_of_bits(x & 0xFFFF0000u)), odd);
    stand_in_fma(acc, stand_in_flush(f32_of_bits(x << 16)), even);
}

#endif
