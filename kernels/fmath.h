/* exp, log, sin and cos that depend on nothing but IEEE arithmetic: the same bits with every libm,
 * compiler and machine. ref and kernels/sample.c use these; the fast CPU paths have vector forms of
 * their own for exp. Inline and free of branches where a compiler may want to vectorise. */
#ifndef KERNELS_FMATH_H
#define KERNELS_FMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/dtype.h"

/* e^x within 2 units in the last place; 0 below -104, INFINITY above 89, NaN stays NaN. */
BOTH_INLINE float fmath_exp(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float t = x * 1.44269504f + shift;
    float n = t - shift;
    int32_t k = (int32_t)(f32_bits(t) - f32_bits(shift));
    /* ln 2 in two parts; n times the first is exact */
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float y = 1.0f / 5040.0f;
    y = y * r + 1.0f / 720.0f;
    y = y * r + 1.0f / 120.0f;
    y = y * r + 1.0f / 24.0f;
    y = y * r + 1.0f / 6.0f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    /* 2^k in two factors, so that both ends of the range are reached */
    int32_t half = k >> 1;
    float low = f32_of_bits((uint32_t)(half + 127) << 23);
    float high = f32_of_bits((uint32_t)(k - half + 127) << 23);
    return y * low * high;
}

/* x * sigmoid(x). */
BOTH_INLINE float fmath_silu(float x)
{
    return x / (1.0f + fmath_exp(-x));
}

/* ln x for a positive finite x, to about 1e-15; -INFINITY for 0. */
BOTH_INLINE double fmath_log(double x)
{
    if (!(x > 0)) {
        return x == 0 ? -(double)INFINITY : (double)NAN;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    /* ln m = 2 artanh((m - 1) / (m + 1)) */
    double s = (m - 1.0) / (m + 1.0);
    double z = s * s;
    double sum = 0;
    for (int i = 19; i >= 1; i -= 2) {
        sum = sum * z + 1.0 / i;
    }
    return (double)e * 0.6931471805599453 + 2.0 * s * sum;
}

/* Sine and cosine of an angle below 2^30, each rounded once from about 1e-12. */
BOTH_INLINE void fmath_sincos(float angle, float *out_sin, float *out_cos)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 */
    double x = angle;
    double n = (x * 0.6366197723675814 + shift) - shift;
    /* pi / 2 in three parts of at most 33 bits; n times the first two is exact below 2^20 */
    double r = x - n * 1.57079632673412561417e+00;
    r = r - n * 6.07710050630396597660e-11;
    r = r - n * 2.02226624879595063154e-21;
    double z = r * r;
    double s = 0;
    double c = 0;
    for (int i = 15; i >= 3; i -= 2) {
        s = (1.0 - s) * z / (i * (i - 1));
    }
    for (int i = 16; i >= 2; i -= 2) {
        c = (1.0 - c) * z / (i * (i - 1));
    }
    s = r * (1.0 - s);
    c = 1.0 - c;
    unsigned quadrant = (unsigned)(int64_t)n & 3u;
    double sine = quadrant & 1u ? c : s;
    double cosine = quadrant & 1u ? s : c;
    *out_sin = (float)(quadrant & 2u ? -sine : sine);
    *out_cos = (float)(quadrant == 1 || quadrant == 2 ? -cosine : cosine);
}

#endif
