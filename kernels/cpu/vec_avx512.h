/* struct vec in one AVX-512 register. The meaning of each function is vec_portable.h's. */
#ifndef KERNELS_CPU_VEC_AVX512_H
#define KERNELS_CPU_VEC_AVX512_H

#ifdef __AVX512F__

#include <immintrin.h>

#include "base/base.h"

struct vec {
    __m512 v;
};

static ALWAYS_INLINE struct vec vec_of(__m512 v)
{
    return (struct vec){v};
}

static ALWAYS_INLINE __mmask16 vec_mask(uint32_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

static ALWAYS_INLINE struct vec vec_set1(float f)
{
    return vec_of(_mm512_set1_ps(f));
}

static ALWAYS_INLINE struct vec vec_load(const float *p)
{
    return vec_of(_mm512_loadu_ps(p));
}

static ALWAYS_INLINE struct vec vec_load_n(const float *p, uint32_t n)
{
    return vec_of(_mm512_maskz_loadu_ps(vec_mask(n), p));
}

static ALWAYS_INLINE void vec_store(float *p, struct vec a)
{
    _mm512_storeu_ps(p, a.v);
}

static ALWAYS_INLINE void vec_store_n(float *p, struct vec a, uint32_t n)
{
    _mm512_mask_storeu_ps(p, vec_mask(n), a.v);
}

static ALWAYS_INLINE struct vec vec_add(struct vec a, struct vec b)
{
    return vec_of(_mm512_add_ps(a.v, b.v));
}

static ALWAYS_INLINE struct vec vec_sub(struct vec a, struct vec b)
{
    return vec_of(_mm512_sub_ps(a.v, b.v));
}

static ALWAYS_INLINE struct vec vec_mul(struct vec a, struct vec b)
{
    return vec_of(_mm512_mul_ps(a.v, b.v));
}

static ALWAYS_INLINE struct vec vec_div(struct vec a, struct vec b)
{
    return vec_of(_mm512_div_ps(a.v, b.v));
}

static ALWAYS_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    return vec_of(_mm512_fmadd_ps(a.v, b.v, c.v));
}

static ALWAYS_INLINE struct vec vec_max(struct vec a, struct vec b)
{
    return vec_of(_mm512_max_ps(a.v, b.v));
}

static ALWAYS_INLINE struct vec vec_min(struct vec a, struct vec b)
{
    return vec_of(_mm512_min_ps(a.v, b.v));
}

static ALWAYS_INLINE struct vec vec_first(struct vec a, uint32_t n, struct vec other)
{
    return vec_of(_mm512_mask_blend_ps(vec_mask(n), other.v, a.v));
}

static ALWAYS_INLINE struct vec vec_pow2(struct vec t)
{
    __m512i k = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
    return vec_of(_mm512_castsi512_ps(_mm512_add_epi32(k, _mm512_set1_epi32(0x3F800000))));
}

static ALWAYS_INLINE float vec_sum(struct vec a)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), high);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

static ALWAYS_INLINE float vec_largest(struct vec a)
{
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a.v), high);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

static ALWAYS_INLINE struct vec vec_even(const void *pairs)
{
    return vec_of(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16)));
}

static ALWAYS_INLINE struct vec vec_odd(const void *pairs)
{
    __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    return vec_of(_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), high)));
}

static ALWAYS_INLINE struct vec vec_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return vec_of(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
}

static ALWAYS_INLINE void vec_store_bf16(uint16_t *p, struct vec a)
{
    __m512i u = _mm512_castps_si512(a.v);
    __m512i top = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i even = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    __m512i r =
        _mm512_mask_or_epi32(_mm512_srli_epi32(even, 16), nan, top, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(r));
}

#endif
#endif
