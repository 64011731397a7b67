/* A generated row of the gated delta rule, one head: the recurrence as it stands, vectors over the
 * value's columns. A column's sums are chains over ascending key channels. */
#ifndef KERNELS_CPU_PATH_GDN_H
#define KERNELS_CPU_PATH_GDN_H

#include "kernels/cpu/path_chunk.h"
#include "kernels/fmath.h"

#define GDN_L2_EPS 1e-6f /* a constant of the rule */

/* out = v / sqrt(sum of squares + eps) * scale */
static inline void gdn_l2_norm(const float *v, uint32_t n, float scale, float *out)
{
    struct vec squares = vec_set1(0.0f);
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = rows_load(v + i, n - i);
        squares = vec_fma(a, a, squares);
    }
    struct vec factor = vec_set1(scale / sqrtf(vec_sum(squares) + GDN_L2_EPS));
    for (uint32_t i = 0; i < n; i += VEC_N) {
        rows_store(out + i, vec_mul(rows_load(v + i, n - i), factor), n - i);
    }
}

struct gdn_columns {
    const float *q, *k, *v;
    float decay;
    float beta;
    float *state;
    float *o;
};

/* `wide` vectors of the value's columns, of which `left` columns are there. */
static ALWAYS_INLINE void gdn_row_columns(const struct cpu_gdn_head *head,
                                          const struct gdn_columns *at, uint32_t wide,
                                          uint32_t left)
{
    const struct vec decay = vec_set1(at->decay);
    struct vec delta[CHUNK_COLS];
    struct vec o[CHUNK_COLS];
    VEC_UNROLL
    for (uint32_t c = 0; c < wide; c++) {
        delta[c] = vec_set1(0.0f);
        o[c] = vec_set1(0.0f);
    }
    for (uint32_t i = 0; i < head->key_dim; i++) {
        const float *state = at->state + (size_t)i * head->value_dim;
        struct vec k = vec_set1(at->k[i]);
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            struct vec s = vec_mul(rows_load(state + c * VEC_N, left), decay);
            delta[c] = vec_fma(s, k, delta[c]);
        }
    }
    VEC_UNROLL
    for (uint32_t c = 0; c < wide; c++) {
        struct vec v = rows_load(at->v + c * VEC_N, left);
        delta[c] = vec_mul(vec_set1(at->beta), vec_sub(v, delta[c]));
    }
    for (uint32_t i = 0; i < head->key_dim; i++) {
        float *state = at->state + (size_t)i * head->value_dim;
        struct vec k = vec_set1(at->k[i]);
        struct vec q = vec_set1(at->q[i]);
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            struct vec s = vec_mul(rows_load(state + c * VEC_N, left), decay);
            s = vec_fma(k, delta[c], s);
            o[c] = vec_fma(s, q, o[c]);
            rows_store(state + c * VEC_N, s, left);
        }
    }
    VEC_UNROLL
    for (uint32_t c = 0; c < wide; c++) {
        vec_store(at->o + c * VEC_N, o[c]);
    }
}

static void gdn_row(const struct cpu_gdn_head *head)
{
    float q[LIMIT_STATE_DIM];
    float k[LIMIT_STATE_DIM];
    struct gdn_columns at = {.q = q, .k = k, .decay = fmath_exp(head->g[0]), .beta = head->beta[0]};
    uint32_t n = head->value_dim;
    uint32_t step = 1;
    gdn_l2_norm(head->q, head->key_dim, 1.0f / sqrtf((float)head->key_dim), q);
    gdn_l2_norm(head->k, head->key_dim, 1.0f, k);
    for (uint32_t col = 0; col < n; col += step * VEC_N) {
        at.v = head->v + col;
        at.state = head->state + col;
        at.o = head->o + col;
        step = n - col >= CHUNK_COLS * VEC_N ? CHUNK_COLS : 1;
        if (step > 1) {
            gdn_row_columns(head, &at, CHUNK_COLS, CHUNK_COLS * VEC_N);
        } else if (n - col >= VEC_N) {
            gdn_row_columns(head, &at, 1, VEC_N);
        } else {
            gdn_row_columns(head, &at, 1, n - col);
        }
    }
}

#endif
