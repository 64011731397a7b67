/* A chunk of prompt rows of the gated delta rule, one head, in its WY form. With G cumulated log
 * decays and S the state before the chunk, the rows d of what is written solve
 *     d_i = beta_i (v_i - e^(G_i) S^T k_i) - sum over j < i of beta_i e^(G_i - G_j) (k_i . k_j) d_j
 * by forward substitution, and
 *     o_i = e^(G_i) S^T q_i + sum over j <= i of e^(G_i - G_j) (q_i . k_j) d_j
 *     S <- e^(G_n) S + sum over j of k_j (e^(G_n - G_j) d_j)^T */
#ifndef KERNELS_CPU_PATH_GDN_CHUNK_H
#define KERNELS_CPU_PATH_GDN_CHUNK_H

#include "kernels/cpu/path_gdn.h"

/* The products of keys with keys and queries with keys of row i, times their decays, and zeros
 * behind what row i sees. */
static inline void gdn_decay_scores(const struct chunk_decay *decay, uint32_t i, uint32_t n,
                                    float beta, float *keys, float *queries)
{
    const struct vec zero = vec_set1(0.0f);
    for (uint32_t j = 0; j < n; j += VEC_N) {
        uint32_t before = i > j ? MIN(i - j, VEC_N) : 0;
        uint32_t until = i + 1 > j ? MIN(i + 1 - j, VEC_N) : 0;
        struct vec e = chunk_since(decay, i, j);
        struct vec key = vec_mul(vec_mul(vec_load(keys + j), e), vec_set1(beta));
        struct vec query = vec_mul(vec_load(queries + j), e);
        vec_store(keys + j, vec_first(key, before, zero));
        vec_store(queries + j, vec_first(query, until, zero));
    }
}

struct gdn_solve {
    const float *scores; /* [row_n, RECURRENT_CHUNK], of keys with keys */
    const float *start;  /* [row_n]: e^(G_i) */
    const float *v;      /* from the first column on, as d */
    float *d;            /* S^T k_i, then d_i */
    size_t d_stride;
};

/* Forward substitution in `wide` vectors of columns, of which `left` columns are there. */
static ALWAYS_INLINE void gdn_substitute(const struct cpu_gdn_head *head, const struct gdn_solve *s,
                                         uint32_t wide, uint32_t left)
{
    for (uint32_t i = 0; i < head->row_n; i++) {
        struct vec acc[CHUNK_COLS];
        struct vec start = vec_set1(-s->start[i]);
        float *row = s->d + i * s->d_stride;
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            struct vec v = rows_load(s->v + i * head->stride + c * VEC_N, left);
            acc[c] = vec_fma(start, vec_load(row + c * VEC_N), v);
            acc[c] = vec_mul(vec_set1(head->beta[i]), acc[c]);
        }
        for (uint32_t j = 0; j < i; j++) {
            const float *earlier = s->d + j * s->d_stride;
            struct vec f = vec_set1(-s->scores[i * RECURRENT_CHUNK + j]);
            VEC_UNROLL
            for (uint32_t c = 0; c < wide; c++) {
                acc[c] = vec_fma(f, vec_load(earlier + c * VEC_N), acc[c]);
            }
        }
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            vec_store(row + c * VEC_N, acc[c]);
        }
    }
}

static inline void gdn_solve(const struct cpu_gdn_head *head, struct gdn_solve s)
{
    uint32_t n = head->value_dim;
    uint32_t step;
    for (uint32_t col = 0; col < n; col += step * VEC_N) {
        step = n - col >= CHUNK_COLS * VEC_N ? CHUNK_COLS : 1;
        if (step > 1) {
            gdn_substitute(head, &s, CHUNK_COLS, CHUNK_COLS * VEC_N);
        } else if (n - col >= VEC_N) {
            gdn_substitute(head, &s, 1, VEC_N);
        } else {
            gdn_substitute(head, &s, 1, n - col);
        }
        s.v += step * VEC_N;
        s.d += step * VEC_N;
    }
}

/* Both squares: scores of the chunk's rows with each other, under their decays. */
static inline void gdn_scores(const struct cpu_gdn_head *head, const struct chunk_decay *decay,
                              const struct cpu_chunk_scratch *s)
{
    uint32_t n = head->row_n;
    struct chunk_mm mm = {.form = CHUNK_LOWER,
                          .x = s->wide[0],
                          .x_stride = head->key_dim,
                          .b = s->tall,
                          .b_stride = RECURRENT_CHUNK,
                          .out = s->square[0],
                          .out_stride = RECURRENT_CHUNK,
                          .row_n = n,
                          .k = head->key_dim,
                          .col_n = ROUND_UP(n, VEC_N)};
    chunk_product(&mm);
    mm.x = s->wide[1];
    mm.out = s->square[1];
    chunk_product(&mm);
    for (uint32_t i = 0; i < n; i++) {
        gdn_decay_scores(decay, i, n, head->beta[i], s->square[0] + (size_t)i * RECURRENT_CHUNK,
                         s->square[1] + (size_t)i * RECURRENT_CHUNK);
    }
}

/* d <- S^T k, o <- S^T q, of all rows. */
static inline void gdn_read_state(const struct cpu_gdn_head *head, float *d, size_t d_stride,
                                  const struct cpu_chunk_scratch *s)
{
    struct chunk_mm mm = {.x = s->wide[0],
                          .x_stride = head->key_dim,
                          .b = head->state,
                          .b_stride = head->value_dim,
                          .out = d,
                          .out_stride = d_stride,
                          .row_n = head->row_n,
                          .k = head->key_dim,
                          .col_n = head->value_dim};
    chunk_product(&mm);
    mm.x = s->wide[1];
    mm.out = head->o;
    mm.out_stride = head->o_stride;
    chunk_product(&mm);
}

static void gdn_chunk(const struct cpu_gdn_head *head, const struct cpu_chunk_scratch *s)
{
    uint32_t n = head->row_n;
    uint32_t key_n = head->key_dim;
    struct chunk_decay decay;
    float start[RECURRENT_CHUNK];
    float end[RECURRENT_CHUNK];
    float *d = s->wide[2];
    size_t d_stride = recurrent_stride(head->value_dim);
    chunk_decay_init(&decay, head->g, n);
    for (uint32_t i = 0; i < n; i++) {
        recurrent_ask(head->k + (i + RECURRENT_AHEAD) * head->stride, key_n);
        recurrent_ask(head->q + (i + RECURRENT_AHEAD) * head->stride, key_n);
        recurrent_ask(head->v + i * head->stride, head->value_dim);
        gdn_l2_norm(head->k + i * head->stride, key_n, 1.0f, s->wide[0] + (size_t)i * key_n);
        gdn_l2_norm(head->q + i * head->stride, key_n, 1.0f / sqrtf((float)key_n),
                    s->wide[1] + (size_t)i * key_n);
    }
    for (uint32_t i = 0; i < RECURRENT_CHUNK; i += VEC_N) {
        vec_store(start + i, chunk_exp(vec_load(decay.high + i)));
        vec_store(end + i, chunk_since(&decay, n - 1, i));
    }
    chunk_turn(s->wide[0], key_n, n, key_n, s->tall);
    gdn_scores(head, &decay, s);
    gdn_read_state(head, d, d_stride, s);
    gdn_solve(head, (struct gdn_solve){s->square[0], start, head->v, d, d_stride});
    struct chunk_mm mm = {.form = CHUNK_X_LOWER,
                          .x = s->square[1],
                          .x_stride = RECURRENT_CHUNK,
                          .b = d,
                          .b_stride = d_stride,
                          .out = head->o,
                          .out_stride = head->o_stride,
                          .row_n = n,
                          .k = n,
                          .col_n = ROUND_UP(head->value_dim, VEC_N),
                          .scale = start,
                          .scale_step = 1};
    chunk_product(&mm);
    for (uint32_t j = 0; j < n; j++) {
        for (uint32_t c = 0; c < head->value_dim; c += VEC_N) {
            float *at = d + j * d_stride + c;
            vec_store(at, vec_mul(vec_load(at), vec_set1(end[j])));
        }
    }
    chunk_product(&(struct chunk_mm){.x = s->tall,
                                     .x_stride = RECURRENT_CHUNK,
                                     .b = d,
                                     .b_stride = d_stride,
                                     .out = head->state,
                                     .out_stride = head->value_dim,
                                     .row_n = key_n,
                                     .k = n,
                                     .col_n = head->value_dim,
                                     .scale = start + n - 1});
}

#endif
