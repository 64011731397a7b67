/* The recurrent mixers' functions, written once over `struct vec`: this file has what is before and
 * behind the recurrence, and the table. */
#ifndef KERNELS_CPU_PATH_RECURRENT_H
#define KERNELS_CPU_PATH_RECURRENT_H

#include "kernels/cpu/path_gdn_chunk.h"
#include "kernels/cpu/path_ssd.h"

static const float recurrent_zeros[RECURRENT_CHANNELS];

/* One row's `left` channels from c on; row r's input j is input r + j of history and x together. */
static ALWAYS_INLINE void recurrent_conv_at(const struct cpu_conv *conv, uint32_t r, uint32_t c,
                                            uint32_t left)
{
    struct vec sum = vec_load(conv->bias + c);
    struct vec scale = vec_load(conv->scale + c);
    for (uint32_t j = 0; j < LIMIT_CONV_TAPS; j++) {
        uint32_t at = r + j;
        struct vec in;
        if (at >= LIMIT_CONV_TAPS - 1) {
            in = rows_load(conv->x + (at - LIMIT_CONV_TAPS + 1) * conv->x_stride + c, left);
            in = vec_mul(in, scale);
        } else if (conv->is_first) {
            in = vec_set1(0.0f);
        } else {
            in = rows_load(conv->history + at * conv->history_stride + c, left);
        }
        sum = vec_fma(vec_load(conv->taps + j * RECURRENT_CHANNELS + c), in, sum);
    }
    rows_store(conv->out + r * conv->out_stride + c, rows_silu(sum), left);
}

/* The last inputs, oldest first: each entry is written before a later one is read. */
static inline void recurrent_move_history(const struct cpu_conv *conv)
{
    for (uint32_t j = 0; j < LIMIT_CONV_TAPS - 1; j++) {
        uint32_t at = conv->row_n + j;
        float *to = conv->history + j * conv->history_stride;
        const float *from =
            conv->is_first ? recurrent_zeros : to + conv->row_n * conv->history_stride;
        bool is_new = at >= LIMIT_CONV_TAPS - 1;
        if (is_new) {
            from = conv->x + (at - LIMIT_CONV_TAPS + 1) * conv->x_stride;
        }
        for (uint32_t c = 0; c < conv->n; c += VEC_N) {
            struct vec in = rows_load(from + c, conv->n - c);
            in = is_new ? vec_mul(in, vec_load(conv->scale + c)) : in;
            rows_store(to + c, in, conv->n - c);
        }
    }
}

static void recurrent_conv(const struct cpu_conv *conv)
{
    for (uint32_t r = 0; r < conv->row_n; r++) {
        for (uint32_t c = 0; c < conv->n; c += VEC_N) {
            __builtin_prefetch(conv->x + (r + RECURRENT_AHEAD) * conv->x_stride + c);
            __builtin_prefetch(conv->out + (r + RECURRENT_AHEAD) * conv->out_stride + c, 1);
            recurrent_conv_at(conv, r, c, conv->n - c);
        }
    }
    recurrent_move_history(conv);
}

static void recurrent_begin(float *state, const float *from, float weight, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += VEC_N) {
        struct vec a = vec_set1(0.0f);
        if (from) {
            a = vec_mul(vec_set1(weight), rows_load(from + i, n - i));
        }
        rows_store(state + i, a, n - i);
    }
}

static void recurrent_gated(enum dtype held, const struct cpu_gated *g)
{
    struct vec squares = vec_set1(0.0f);
    struct vec inverse = vec_set1(1.0f);
    const struct vec z_scale = vec_set1(g->z_scale);
    for (uint32_t i = 0; i < g->n && g->norm; i += VEC_N) {
        struct vec y = rows_load(g->y + i, g->n - i);
        if (!g->is_gate_last) {
            y = vec_mul(y, rows_silu(vec_mul(z_scale, rows_load(g->z + i, g->n - i))));
            rows_store(g->y + i, y, g->n - i);
        }
        squares = vec_fma(y, y, squares);
    }
    if (g->norm) {
        inverse = vec_set1(rows_inverse_rms(squares, g->n, g->eps));
    }
    for (uint32_t i = 0; i < g->n; i += VEC_N) {
        struct vec y = rows_load(g->y + i, g->n - i);
        if (g->norm) {
            y = vec_mul(vec_mul(y, inverse), rows_load(g->norm + i, g->n - i));
        }
        if (!g->norm || g->is_gate_last) {
            y = vec_mul(y, rows_silu(vec_mul(z_scale, rows_load(g->z + i, g->n - i))));
        }
        rows_store_held(held, g->out, i, y, g->n);
    }
}

#define RECURRENT_TABLE                                                                            \
    {                                                                                              \
        recurrent_conv, recurrent_begin, gdn_row, gdn_chunk, ssd_row, ssd_chunk, recurrent_gated   \
    }

#endif
