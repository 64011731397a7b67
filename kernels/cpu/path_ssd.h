/* State-space duality of one head, written once over `struct vec`.
 *
 * A generated row takes the recurrence, vectors over the state's columns. A chunk, with G cumulated
 * log decays and H the state before it:
 *     y_i = e^(G_i) H C_i + sum over j <= i of e^(G_i - G_j) (B_j . C_i) dt_j x_j + d x_i
 *     H <- e^(G_n) H + sum over j of x_j (e^(G_n - G_j) dt_j B_j)^T
 * y is worked out turned round, [head_dim, positions], so that H is read as it lies. */
#ifndef KERNELS_CPU_PATH_SSD_H
#define KERNELS_CPU_PATH_SSD_H

#include "kernels/cpu/path_chunk.h"
#include "kernels/fmath.h"

static void ssd_row(const struct cpu_ssd_head *head)
{
    const struct vec decay = vec_set1(fmath_exp(head->g[0]));
    uint32_t n = head->state_dim;
    for (uint32_t p = 0; p < head->head_dim; p++) {
        float *state = head->state + (size_t)p * n;
        const struct vec x = vec_set1(head->dt[0] * head->x[p]);
        struct vec sum = vec_set1(0.0f);
        for (uint32_t i = 0; i < n; i += VEC_N) {
            struct vec s = vec_mul(rows_load(state + i, n - i), decay);
            s = vec_fma(x, rows_load(head->b + i, n - i), s);
            rows_store(state + i, s, n - i);
            sum = vec_fma(s, rows_load(head->c + i, n - i), sum);
        }
        head->y[p] = fmaf(head->d, head->x[p], vec_sum(sum));
    }
}

/* The products of B_j with every C_i, times decay and dt_j, and zeros before position j. */
static inline void ssd_decay_scores(const struct chunk_decay *decay, uint32_t j, uint32_t n,
                                    float dt, float *scores)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        uint32_t before = j > i ? MIN(j - i, VEC_N) : 0;
        struct vec e = vec_mul(chunk_until(decay, i, j), vec_set1(dt));
        struct vec score = vec_mul(vec_load(scores + i), e);
        vec_store(scores + i, vec_first(vec_set1(0.0f), before, score));
    }
}

/* square[0] [j, i]: what position j puts into y of position i, per unit of x_j. */
static inline void ssd_scores(const struct cpu_ssd_head *head, const struct chunk_decay *decay,
                              const struct cpu_chunk_scratch *s)
{
    uint32_t n = head->row_n;
    chunk_product(&(struct chunk_mm){.form = CHUNK_UPPER,
                                     .x = head->b,
                                     .x_stride = head->stride,
                                     .b = s->tall,
                                     .b_stride = RECURRENT_CHUNK,
                                     .out = s->square[0],
                                     .out_stride = RECURRENT_CHUNK,
                                     .row_n = n,
                                     .k = head->state_dim,
                                     .col_n = ROUND_UP(n, VEC_N)});
    for (uint32_t j = 0; j < n; j++) {
        ssd_decay_scores(decay, j, n, head->dt[j], s->square[0] + (size_t)j * RECURRENT_CHUNK);
    }
}

/* The output turned round, into wide[1]; wide[0] holds x turned round. */
static inline void ssd_outputs(const struct cpu_ssd_head *head, const struct chunk_decay *decay,
                               const struct cpu_chunk_scratch *s)
{
    uint32_t n = ROUND_UP(head->row_n, VEC_N);
    struct chunk_mm mm = {.x = head->state,
                          .x_stride = head->state_dim,
                          .b = s->tall,
                          .b_stride = RECURRENT_CHUNK,
                          .out = s->wide[1],
                          .out_stride = RECURRENT_CHUNK,
                          .row_n = head->head_dim,
                          .k = head->state_dim,
                          .col_n = n};
    static const float one = 1.0f;
    chunk_product(&mm);
    for (uint32_t i = 0; i < n; i += VEC_N) {
        const struct vec start = chunk_exp(vec_load(decay->high + i));
        for (uint32_t p = 0; p < head->head_dim; p++) {
            float *y = s->wide[1] + (size_t)p * RECURRENT_CHUNK + i;
            vec_store(y, vec_mul(vec_load(y), start));
        }
    }
    mm.form = CHUNK_B_UPPER;
    mm.x = s->wide[0];
    mm.x_stride = RECURRENT_CHUNK;
    mm.b = s->square[0];
    mm.k = head->row_n;
    mm.scale = &one;
    chunk_product(&mm);
}

static void ssd_chunk(const struct cpu_ssd_head *head, const struct cpu_chunk_scratch *s)
{
    uint32_t n = head->row_n;
    struct chunk_decay decay;
    float end[RECURRENT_CHUNK];
    float *b = s->wide[2];
    size_t b_stride = recurrent_stride(head->state_dim);
    chunk_decay_init(&decay, head->g, n);
    chunk_turn(head->c, head->stride, n, head->state_dim, s->tall);
    chunk_turn(head->x, head->stride, n, head->head_dim, s->wide[0]);
    ssd_scores(head, &decay, s);
    ssd_outputs(head, &decay, s);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t p = 0; p < head->head_dim; p++) {
            float y = s->wide[1][(size_t)p * RECURRENT_CHUNK + i];
            head->y[i * head->y_stride + p] = fmaf(head->d, head->x[i * head->stride + p], y);
        }
    }
    for (uint32_t j = 0; j < n; j += VEC_N) {
        vec_store(end + j, chunk_since(&decay, n - 1, j));
    }
    for (uint32_t j = 0; j < n; j++) {
        struct vec factor = vec_set1(end[j] * head->dt[j]);
        for (uint32_t i = 0; i < head->state_dim; i += VEC_N) {
            struct vec from = rows_load(head->b + j * head->stride + i, head->state_dim - i);
            vec_store(b + j * b_stride + i, vec_mul(from, factor));
        }
    }
    vec_store(end, chunk_exp(vec_set1(decay.high[n - 1])));
    chunk_product(&(struct chunk_mm){.x = s->wide[0],
                                     .x_stride = RECURRENT_CHUNK,
                                     .b = b,
                                     .b_stride = b_stride,
                                     .out = head->state,
                                     .out_stride = head->state_dim,
                                     .row_n = head->head_dim,
                                     .k = n,
                                     .col_n = head->state_dim,
                                     /* of every row */
                                     .scale = end});
}

#endif
