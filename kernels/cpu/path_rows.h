/* Row functions, written once over `struct vec`.
 *
 * Order: a sum over n elements is 16 partial sums, lane i taking elements i, i + 16, ..., joined by
 * vec_sum. The last vector of a row is filled with zeros (or masked) and goes the same way. */
#ifndef KERNELS_CPU_PATH_ROWS_H
#define KERNELS_CPU_PATH_ROWS_H

#include "kernels/cpu/path.h"
#include "kernels/cpu/path_softmax.h"
#include "kernels/cpu/vec_rows.h"

static inline void rows_join(enum dtype held, const struct cpu_join_row *row)
{
    struct vec squares = vec_set1(0.0f);
    for (uint32_t i = 0; i < row->n; i += VEC_N) {
        uint32_t left = row->n - i;
        struct vec h = rows_load(row->h + i, left);
        if (row->p0) {
            struct vec sum = vec_mul(vec_set1(row->m0), rows_load(row->p0 + i, left));
            if (row->p1) {
                sum = vec_fma(vec_set1(row->m1), rows_load(row->p1 + i, left), sum);
            }
            h = vec_add(h, sum);
            rows_store(row->h + i, h, left);
        }
        squares = vec_fma(h, h, squares);
    }
    struct vec inverse = vec_set1(rows_inverse_rms(squares, row->n, row->eps));
    for (uint32_t i = 0; i < row->n; i += VEC_N) {
        struct vec h = vec_mul(rows_load(row->h + i, row->n - i), inverse);
        h = vec_mul(h, rows_load(row->gain + i, row->n - i));
        rows_store_held(held, row->x, i, h, row->n);
    }
}

static inline void rows_act_mul(enum dtype held, const float *gate, float factor, const float *up,
                                uint32_t n, void *out)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec g = vec_mul(rows_load(gate + i, n - i), vec_set1(factor));
        rows_store_held(held, out, i, vec_mul(rows_silu(g), rows_load(up + i, n - i)), n);
    }
}

static inline void rows_gate(float *x, const float *gate, uint32_t n)
{
    const struct vec one = vec_set1(1.0f);
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec e = vec_exp(vec_sub(vec_set1(0.0f), rows_load(gate + i, n - i)));
        rows_store(x + i, vec_div(rows_load(x + i, n - i), vec_add(one, e)), n - i);
    }
}

static inline void rows_to_held(enum dtype held, const float *x, float factor, uint32_t n,
                                void *out)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = vec_mul(rows_load(x + i, n - i), vec_set1(factor));
        rows_store_held(held, out, i, a, n);
    }
}

static inline void rows_add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        rows_store(x + i, vec_add(rows_load(x + i, n - i), rows_load(y + i, n - i)), n - i);
    }
}

static inline void rows_scale(float *x, float factor, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        rows_store(x + i, vec_mul(rows_load(x + i, n - i), vec_set1(factor)), n - i);
    }
}

static ALWAYS_INLINE struct vec rows_factor(const float *v, float weight, uint32_t i, uint32_t n)
{
    return vec_fma(vec_set1(weight), rows_load(v + i, n - i), vec_set1(1.0f - weight));
}

static inline void rows_scale_by(float *x, const float *v, float weight, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = rows_load(x + i, n - i);
        rows_store(x + i, vec_mul(a, rows_factor(v, weight, i, n)), n - i);
    }
}

static inline void rows_scale_held(enum dtype held, void *x, const struct cpu_factors *factors,
                                   uint32_t n)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = rows_load_held(held, x, i, n);
        for (uint32_t f = 0; f < factors->n; f++) {
            a = vec_mul(a, rows_factor(factors->v[f], factors->weight[f], i, n));
        }
        rows_store_held(held, x, i, a, n);
    }
}

static inline void rows_norm(float *x, const float *gain, float eps, uint32_t n)
{
    struct vec squares = vec_set1(0.0f);
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = rows_load(x + i, n - i);
        squares = vec_fma(a, a, squares);
    }
    struct vec inverse = vec_set1(rows_inverse_rms(squares, n, eps));
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = vec_mul(rows_load(x + i, n - i), inverse);
        rows_store(x + i, vec_mul(a, rows_load(gain + i, n - i)), n - i);
    }
}

static inline void rows_rope(float *x, const float *cos_sin, uint32_t half)
{
    const struct vec zero = vec_set1(0.0f);
    for (uint32_t i = 0; i < half; i += VEC_N) {
        uint32_t left = half - i;
        struct vec a = rows_load(x + i, left);
        struct vec b = rows_load(x + half + i, left);
        struct vec c = rows_load(cos_sin + i, left);
        struct vec s = rows_load(cos_sin + half + i, left);
        rows_store(x + i, vec_fma(a, c, vec_sub(zero, vec_mul(b, s))), left);
        rows_store(x + half + i, vec_fma(b, c, vec_mul(a, s)), left);
    }
}

#define ROWS_TABLE                                                                                 \
    {                                                                                              \
        rows_join, rows_act_mul, rows_gate, rows_to_held, rows_add, rows_scale, rows_scale_by,     \
            rows_scale_held, rows_norm, rows_rope, rows_softmax, rows_lse                          \
    }

#endif
