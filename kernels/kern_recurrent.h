/* The recurrent mixers: ops whose memory of a sequence is one fixed state instead of a growing
 * cache.
 *
 * State memory, all fp32: [layer][slot][state_n + (LIMIT_CONV_TAPS - 1) * conv_n]: the recurrent
 * state, then the last inputs of the convolution, oldest first, each [conv_n]. A slot is a
 * sequence's slot. Layer ordinals count recurrent layers only.
 *
 * A sequence whose first row of the step is at position 0 begins there: its convolution has seen
 * zeros, and its state is weight times the state of the version that a kern_start names, or zero;
 * what the slot held is not read. Any other sequence goes on from its slot. In the end the slot
 * holds the state after the sequence's last row. A version's states are laid out as a slot's
 * (effect.h), so beginning costs one read of them and no copy.
 *
 * Order. Generated rows take the recurrent form. Prompt rows may take a chunked form whose chunks
 * end at absolute multiples of LIMIT_PROMPT_CUT positions; it differs from the recurrent one by
 * rounding only, and no exponent in it is positive: exp() is taken of differences of cumulated log
 * decays within a chunk, later minus earlier, and never of their negatives. */
#ifndef KERNELS_KERN_RECURRENT_H
#define KERNELS_KERN_RECURRENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

struct kern_state {
    uint32_t layer_n;
    uint32_t slot_n;
    uint32_t state_n; /* floats of the recurrent state of one layer */
    uint32_t conv_n;  /* channels of the convolution */
};

/* Both mixers begin with a causal depthwise convolution over the sequence's positions:
 *     conv(m)_t[c] = silu(bias[c] + sum over j < LIMIT_CONV_TAPS of w[c, j] m_{t - 3 + j}[c]) */
struct kern_conv {
    const float *w;    /* dev [conv_n, LIMIT_CONV_TAPS], the last tap for the row itself */
    const float *bias; /* dev [conv_n] or NULL */
};

/* Gated delta rule (Gated DeltaNet, arXiv 2412.06464). x holds, per row and side by side,
 *     q [key_head_n, key_dim], k the same, v [value_head_n, value_dim]: these three through conv;
 *     z [value_head_n, value_dim], b [value_head_n], a [value_head_n].
 * Value head h reads key head h / (value_head_n / key_head_n). Per value head, with
 * q <- q / sqrt(sum q^2 + 1e-6) / sqrt(key_dim), k <- k / sqrt(sum k^2 + 1e-6),
 * beta = sigmoid(b), g = -exp(a_log) softplus(a + dt_bias), and S [key_dim, value_dim]:
 *     S <- e^g S;  S <- S + k (beta (v - S^T k))^T;  o = S^T q
 *     out = held(o / sqrt(mean o^2 + norm_eps) * norm * silu(z)) */
struct kern_gdn {
    uint32_t state_layer;
    uint32_t key_head_n, value_head_n;
    uint32_t key_dim, value_dim; /* at most LIMIT_STATE_DIM */
    const float *x;              /* dev [row_n, the widths above] */
    struct kern_conv conv;
    const float *a_log, *dt_bias; /* dev [value_head_n] */
    const float *norm;            /* dev [value_dim] */
    float norm_eps;
    void *out; /* dev, held, [row_n, value_head_n * value_dim] */
};

/* The order of a Mamba-2 layer's gate and norm. */
enum kern_ssd_norm {
    KERN_SSD_NO_NORM,    /* out = y silu(z) */
    KERN_SSD_NORM_LAST,  /* out = rms(y silu(z)) norm */
    KERN_SSD_NORM_FIRST, /* out = rms(y) norm silu(z) */
};

enum kern_ssd_piece {
    KERN_SSD_Z,
    KERN_SSD_X,
    KERN_SSD_B,
    KERN_SSD_C,
    KERN_SSD_DT,
    KERN_SSD_PIECE_N
};

/* State-space duality (Mamba-2, arXiv 2405.21060). x holds, per row and side by side, each times
 * its multiplier,
 *     z [head_n, head_dim]; x [head_n, head_dim], B [group_n, state_dim], C the same: these three
 *     through conv; dt [head_n].
 * Head h reads group h / (head_n / group_n). Per head, with dt <- softplus(dt + dt_bias),
 * A = -exp(a_log), and H [head_dim, state_dim]:
 *     H <- e^(dt A) H + dt x B^T;  y = H C + d x
 * and out = held(y with gate and norm), the norm over each group's channels. */
struct kern_ssd {
    uint32_t state_layer;
    uint32_t head_n, head_dim; /* head_dim and state_dim at most LIMIT_STATE_DIM */
    uint32_t group_n, state_dim;
    const float *x; /* dev [row_n, the widths above] */
    float multipliers[KERN_SSD_PIECE_N];
    struct kern_conv conv;
    const float *a_log, *dt_bias, *d; /* dev [head_n] */
    enum kern_ssd_norm norm_order;
    const float *norm; /* dev [head_n * head_dim], or NULL with KERN_SSD_NO_NORM */
    float norm_eps;
    void *out; /* dev, held, [row_n, head_n * head_dim] */
};

/* Floats of a state, channels of the convolution, and floats of a row of x. */
static inline uint32_t kern_gdn_state_n(const struct kern_gdn *op)
{
    return op->value_head_n * op->key_dim * op->value_dim;
}

static inline uint32_t kern_gdn_conv_n(const struct kern_gdn *op)
{
    return 2 * op->key_head_n * op->key_dim + op->value_head_n * op->value_dim;
}

static inline uint32_t kern_gdn_row_n(const struct kern_gdn *op)
{
    return kern_gdn_conv_n(op) + op->value_head_n * (op->value_dim + 2);
}

static inline uint32_t kern_ssd_state_n(const struct kern_ssd *op)
{
    return op->head_n * op->head_dim * op->state_dim;
}

static inline uint32_t kern_ssd_conv_n(const struct kern_ssd *op)
{
    return op->head_n * op->head_dim + 2 * op->group_n * op->state_dim;
}

static inline uint32_t kern_ssd_row_n(const struct kern_ssd *op)
{
    return kern_ssd_conv_n(op) + op->head_n * (op->head_dim + 1);
}

/* Floats of one slot of one layer, and bytes of all. */
static inline size_t kern_state_slot_n(const struct kern_state *state)
{
    return state->state_n + (size_t)(LIMIT_CONV_TAPS - 1) * state->conv_n;
}

static inline size_t kern_state_bytes(const struct kern_state *state)
{
    return kern_state_slot_n(state) * state->layer_n * state->slot_n * sizeof(float);
}

#endif
