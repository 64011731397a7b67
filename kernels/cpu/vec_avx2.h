/* struct vec in two AVX2 registers. The meaning of each function is vec_portable.h's. */
#ifndef KERNELS_CPU_VEC_AVX2_H
#define KERNELS_CPU_VEC_AVX2_H

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>
#include <string.h>

#include "base/base.h"

struct vec {
    __m256 lo;
    __m256 hi;
};

static ALWAYS_INLINE struct vec vec_set1(float f)
{
    __m256 v = _mm256_set1_ps(f);
    return (struct vec){v, v};
}

static ALWAYS_INLINE struct vec vec_load(const float *p)
{
    return (struct vec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static ALWAYS_INLINE struct vec vec_load_n(const float *p, uint32_t n)
{
    float f[16] = {0};
    memcpy(f, p, n * sizeof f[0]);
    return vec_load(f);
}

static ALWAYS_INLINE void vec_store(float *p, struct vec a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

static ALWAYS_INLINE void vec_store_n(float *p, struct vec a, uint32_t n)
{
    float f[16];
    vec_store(f, a);
    memcpy(p, f, n * sizeof f[0]);
}

static ALWAYS_INLINE struct vec vec_add(struct vec a, struct vec b)
{
    return (struct vec){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static ALWAYS_INLINE struct vec vec_sub(struct vec a, struct vec b)
{
    return (struct vec){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

static ALWAYS_INLINE struct vec vec_mul(struct vec a, struct vec b)
{
    return (struct vec){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

static ALWAYS_INLINE struct vec vec_div(struct vec a, struct vec b)
{
    return (struct vec){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

static ALWAYS_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return (struct vec){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

static ALWAYS_INLINE struct vec vec_max(struct vec a, struct vec b)
{
    return (struct vec){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

static ALWAYS_INLINE struct vec vec_min(struct vec a, struct vec b)
{
    return (struct vec){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

static ALWAYS_INLINE struct vec vec_first(struct vec a, uint32_t n, struct vec other)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i lo = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
    __m256i hi = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - 8), lane);
    return (struct vec){_mm256_blendv_ps(other.lo, a.lo, _mm256_castsi256_ps(lo)),
                        _mm256_blendv_ps(other.hi, a.hi, _mm256_castsi256_ps(hi))};
}

static ALWAYS_INLINE __m256 vec_pow2_half(__m256 t)
{
    __m256i k = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(k, _mm256_set1_epi32(0x3F800000)));
}

static ALWAYS_INLINE struct vec vec_pow2(struct vec t)
{
    return (struct vec){vec_pow2_half(t.lo), vec_pow2_half(t.hi)};
}

static ALWAYS_INLINE float vec_sum(struct vec a)
{
    __m256 h = _mm256_add_ps(a.lo, a.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

static ALWAYS_INLINE float vec_largest(struct vec a)
{
    __m256 h = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

static ALWAYS_INLINE __m256i vec_load_words(const void *p)
{
    return _mm256_loadu_si256(p);
}

static ALWAYS_INLINE struct vec vec_even(const void *pairs)
{
    __m256i lo = _mm256_slli_epi32(vec_load_words(pairs), 16);
    __m256i hi = _mm256_slli_epi32(vec_load_words((const char *)pairs + 32), 16);
    return (struct vec){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}

static ALWAYS_INLINE struct vec vec_odd(const void *pairs)
{
    __m256i high = _mm256_set1_epi32((int)0xFFFF0000);
    __m256i lo = _mm256_and_si256(vec_load_words(pairs), high);
    __m256i hi = _mm256_and_si256(vec_load_words((const char *)pairs + 32), high);
    return (struct vec){_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}

static ALWAYS_INLINE __m256 vec_widen_half(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static ALWAYS_INLINE struct vec vec_load_bf16(const uint16_t *p)
{
    return (struct vec){vec_widen_half(p), vec_widen_half(p + 8)};
}

static ALWAYS_INLINE __m256i vec_round_half(__m256 a)
{
    __m256i u = _mm256_castps_si256(a);
    __m256i top = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i even = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(_mm256_srli_epi32(even, 16), quiet, nan);
}

static ALWAYS_INLINE void vec_store_bf16(uint16_t *p, struct vec a)
{
    /* packus works on 128-bit halves: the permutation puts the four quarters in order */
    __m256i both = _mm256_packus_epi32(vec_round_half(a.lo), vec_round_half(a.hi));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(both, 0xD8));
}

#endif
#endif
