/* What the chunked forms of the recurrent mixers are made of: a small fp32 product and decays.
 *
 * Order: every element of a product is one fma chain over ascending k, from what it starts with, so
 * neither the height nor the width of a block shows. */
#ifndef KERNELS_CPU_PATH_CHUNK_H
#define KERNELS_CPU_PATH_CHUNK_H

#include "kernels/cpu/recurrent.h"
#include "kernels/cpu/vec_rows.h"

/* Accumulators of one block: as many as there are registers for. */
#ifdef CPU_VEC_AVX512
#define CHUNK_ROWS 8u
#define CHUNK_WIDE 2u
#define CHUNK_COLS 8u /* vectors of a row that a chain over rows keeps */
#else
#define CHUNK_ROWS 4u
#define CHUNK_WIDE 1u
#define CHUNK_COLS 4u
#endif

/* What of a product is needed or not zero; blocks beyond it are left out. */
enum chunk_form {
    CHUNK_FULL,
    CHUNK_LOWER,   /* out: columns up to the row */
    CHUNK_UPPER,   /* out: columns from the row on */
    CHUNK_X_LOWER, /* x is zero behind column = row */
    CHUNK_B_UPPER, /* b is zero below row = column */
};

/* out[r][c] = (scale ? scale[r * scale_step] * out[r][c] : 0) + sum over j < k of x[r][j] b[j][c].
 */
struct chunk_mm {
    enum chunk_form form;
    const float *x;
    size_t x_stride;
    const float *b;
    size_t b_stride;
    float *out;
    size_t out_stride;
    uint32_t row_n, k, col_n;
    const float *scale;
    uint32_t scale_step;
};

/* One block: rows x wide vectors; `left` columns are there. */
static ALWAYS_INLINE void chunk_block(const struct chunk_mm *m, uint32_t row, uint32_t rows,
                                      uint32_t col, uint32_t wide, uint32_t left, uint32_t k)
{
    const float *x = m->x + row * m->x_stride;
    const float *b = m->b + col;
    float *out = m->out + row * m->out_stride + col;
    struct vec acc[CHUNK_ROWS * CHUNK_WIDE];
    VEC_UNROLL
    for (uint32_t i = 0; i < rows * wide; i++) {
        acc[i] = vec_set1(0.0f);
    }
    if (m->scale) {
        VEC_UNROLL
        for (uint32_t i = 0; i < rows * wide; i++) {
            const float *from = out + i / wide * m->out_stride + i % wide * VEC_N;
            struct vec scale = vec_set1(m->scale[(row + i / wide) * m->scale_step]);
            acc[i] = vec_mul(rows_load(from, left), scale);
        }
    }
    for (uint32_t j = 0; j < k; j++) {
        struct vec at[CHUNK_WIDE];
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            at[c] = rows_load(b + j * m->b_stride + c * VEC_N, left);
        }
        VEC_UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            struct vec f = vec_set1(x[r * m->x_stride + j]);
            VEC_UNROLL
            for (uint32_t c = 0; c < wide; c++) {
                acc[r * wide + c] = vec_fma(f, at[c], acc[r * wide + c]);
            }
        }
    }
    VEC_UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            rows_store(out + r * m->out_stride + c * VEC_N, acc[r * wide + c], left);
        }
    }
}

/* All rows of one column of blocks. */
static ALWAYS_INLINE void chunk_column(const struct chunk_mm *m, uint32_t col, uint32_t wide,
                                       uint32_t left)
{
    uint32_t end = col + wide * VEC_N;
    uint32_t rows;
    for (uint32_t row = 0; row < m->row_n; row += rows) {
        rows = m->row_n - row >= CHUNK_ROWS ? CHUNK_ROWS : 1;
        uint32_t k = m->form == CHUNK_X_LOWER   ? MIN(m->k, row + rows)
                     : m->form == CHUNK_B_UPPER ? MIN(m->k, end)
                                                : m->k;
        bool is_needed = m->form == CHUNK_LOWER   ? col < row + rows
                         : m->form == CHUNK_UPPER ? row < end
                                                  : true;
        if (is_needed && rows == CHUNK_ROWS) {
            chunk_block(m, row, CHUNK_ROWS, col, wide, left, k);
        } else if (is_needed) {
            chunk_block(m, row, 1, col, wide, left, k);
        }
    }
}

static void chunk_product(const struct chunk_mm *m)
{
    uint32_t col = 0;
    for (; CHUNK_WIDE > 1 && col + CHUNK_WIDE * VEC_N <= m->col_n; col += CHUNK_WIDE * VEC_N) {
        chunk_column(m, col, CHUNK_WIDE, CHUNK_WIDE * VEC_N);
    }
    for (; col + VEC_N <= m->col_n; col += VEC_N) {
        chunk_column(m, col, 1, VEC_N);
    }
    if (col < m->col_n) {
        chunk_column(m, col, 1, m->col_n - col);
    }
}

/* Log decays cumulated from the chunk's beginning. In two floats: a difference of two of them must
 * be as exact next to a position that forgets everything as it is elsewhere. */
struct chunk_decay {
    float high[RECURRENT_CHUNK];
    float low[RECURRENT_CHUNK];
};

static inline void chunk_decay_init(struct chunk_decay *decay, const float *g, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < RECURRENT_CHUNK; i++) {
        sum += i < n ? (double)g[i] : 0;
        decay->high[i] = (float)sum;
        decay->low[i] = (float)(sum - (double)decay->high[i]);
    }
}

/* e^x for x <= 0; what is below 1e-30 is 0, because products with it would be denormal numbers,
 * which cost a hundred times as much and change nothing. */
static ALWAYS_INLINE struct vec chunk_exp(struct vec x)
{
    const struct vec zero = vec_set1(0.0f);
    struct vec e = vec_exp(vec_min(x, zero));
    return vec_max(vec_sub(e, vec_set1(1e-30f)), zero);
}

/* e^(G_i - G_j) for 16 earlier positions from j on; lanes behind i hold 1. */
static ALWAYS_INLINE struct vec chunk_since(const struct chunk_decay *decay, uint32_t i, uint32_t j)
{
    struct vec high = vec_sub(vec_set1(decay->high[i]), vec_load(decay->high + j));
    struct vec low = vec_sub(vec_set1(decay->low[i]), vec_load(decay->low + j));
    return chunk_exp(vec_add(high, low));
}

/* e^(G_i - G_j) for 16 later positions from i on; lanes before j hold 1. */
static ALWAYS_INLINE struct vec chunk_until(const struct chunk_decay *decay, uint32_t i, uint32_t j)
{
    struct vec high = vec_sub(vec_load(decay->high + i), vec_set1(decay->high[j]));
    struct vec low = vec_sub(vec_load(decay->low + i), vec_set1(decay->low[j]));
    return chunk_exp(vec_add(high, low));
}

/* out[j][i] = rows[i][j]; out has RECURRENT_CHUNK floats to a row. */
static inline void chunk_turn(const float *rows, size_t stride, uint32_t row_n, uint32_t n,
                              float *out)
{
    for (uint32_t i = 0; i < row_n; i++) {
        recurrent_ask(rows + (i + RECURRENT_AHEAD) * stride, n);
        for (uint32_t j = 0; j < n; j++) {
            out[(size_t)j * RECURRENT_CHUNK + i] = rows[i * stride + j];
        }
    }
}

#endif
