/* Element types of tensors and the exact conversions between them.
 *
 * Conversions to a narrower type round to nearest, ties to even; a NaN stays a NaN; overflow gives
 * an infinity (the reader of weights checks for it). */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stdint.h>
#include <stddef.h>
#include <string.h>

/* Functions that device code uses as well. */
#ifdef __CUDACC__
#define BOTH_INLINE static __host__ __device__ __forceinline__
#else
#define BOTH_INLINE static inline
#endif

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_N };

static inline size_t dtype_bytes(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

static inline const char *dtype_name(enum dtype t)
{
    return t == DTYPE_F32 ? "f32" : t == DTYPE_F16 ? "f16" : "bf16";
}

BOTH_INLINE float f32_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

BOTH_INLINE uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

BOTH_INLINE float bf16_to_f32(uint16_t h)
{
    return f32_of_bits((uint32_t)h << 16);
}

BOTH_INLINE uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)((u >> 16) | 0x40u);
    }
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* The value rounded to bf16, as f32. */
BOTH_INLINE float bf16_round(float f)
{
    return bf16_to_f32(bf16_from_f32(f));
}

BOTH_INLINE float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1Fu;
    uint32_t mantissa = h & 0x3FFu;
    if (exponent == 0) {
        /* zero or denormal: mantissa * 2^-24 is exact */
        float f = (float)mantissa * 5.9604644775390625e-8f;
        return f32_of_bits(f32_bits(f) | sign);
    }
    if (exponent == 31) {
        return f32_of_bits(sign | 0x7F800000u | (mantissa << 13));
    }
    return f32_of_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

BOTH_INLINE uint16_t f16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    uint32_t magnitude = u & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
        return (uint16_t)(sign | 0x7E00u);
    }
    if (magnitude >= 0x477FF000u) { /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (magnitude <
        0x38800000u) { /* below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to */
        float shifted = f32_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (f32_bits(shifted) - 0x3F000000u));
    }
    uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

#endif
