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

/* The even (low) and the odd (high) value of a pair, denormals flushed. */
static inline float stand_in_even(uint32_t pair)
{
    return stand_in_flush(f32_of_bits(pair << 16));
}

static inline float stand_in_odd(uint32_t pair)
{
    return stand_in_flush(f32_of_bits(pair & 0xFFFF0000u));
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

/* a * b + c of flushed values. */
static inline float stand_in_fma(float a, float b, float c)
{
    float r = fmaf(a, b, c);
    float size = fabsf(r);
    if (LIKELY(!(size <= FLT_MIN) || size == 0.0f)) {
        return r;
    }
    return size < FLT_MIN ? copysignf(0.0f, r) : stand_in_at_edge(a, b, c, r);
}

static inline float stand_in_add(float a, float b)
{
    return stand_in_flush(a + b);
}

/* vdpbf16ps, one lane: the odd products first, each accumulated on its own. */
static inline float stand_in_dp(float acc, uint32_t x, uint32_t w)
{
    acc = stand_in_fma(stand_in_odd(x), stand_in_odd(w), stand_in_flush(acc));
    return stand_in_fma(stand_in_even(x), stand_in_even(w), acc);
}

#endif
