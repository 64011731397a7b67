/* ref: the recurrent mixers, one position after another. */
#include "kernels/ref/ref_int.h"

#include <math.h>

#include "kernels/effect.h"
#include "kernels/fmath.h"

#define REF_L2_EPS 1e-6f /* of the norm of q and k: a constant of the delta rule */

/* The state that slot `slot` keeps for a layer, its convolution's history behind it. */
static float *ref_state_slot(const struct kern_dev *dev, uint32_t layer, uint32_t slot)
{
    ASSERT_CMP(layer, <, dev->state.layer_n);
    ASSERT_CMP(slot, <, dev->state.slot_n);
    return dev->state_data +
           ((size_t)layer * dev->state.slot_n + slot) * kern_state_slot_n(&dev->state);
}

/* What the sequence begins with, where it begins in this step. */
static void ref_state_begin(const struct kern_dev *dev, uint32_t layer, uint32_t slot, float *state)
{
    uint32_t n = dev->state.state_n;
    memset(state, 0, kern_state_slot_n(&dev->state) * sizeof *state);
    for (uint32_t i = 0; i < dev->step.start_n; i++) {
        const struct kern_start *start = &dev->step.starts[i];
        if (start->slot != slot) {
            continue;
        }
        ASSERT_CMP(start->version, <, dev->args.version_max);
        const float *from = effect_state_at(dev->versions[start->version], layer);
        ASSERT(from);
        for (uint32_t j = 0; j < n; j++) {
            state[j] = start->weight * from[j];
        }
    }
}

/* out = conv(in) for one row's channels; history moves on. out may be in. */
static void ref_conv(const struct kern_conv *conv, const float *in, uint32_t n, float *history,
                     float *out)
{
    for (uint32_t c = 0; c < n; c++) {
        const float *w = conv->w + (size_t)c * LIMIT_CONV_TAPS;
        float sum = conv->bias ? conv->bias[c] : 0;
        for (uint32_t j = 0; j + 1 < LIMIT_CONV_TAPS; j++) {
            sum += w[j] * history[(size_t)j * n + c];
        }
        float now = in[c];
        sum += w[LIMIT_CONV_TAPS - 1] * now;
        out[c] = fmath_silu(sum);
        for (uint32_t j = 0; j + 2 < LIMIT_CONV_TAPS; j++) {
            history[(size_t)j * n + c] = history[(size_t)(j + 1) * n + c];
        }
        history[(size_t)(LIMIT_CONV_TAPS - 2) * n + c] = now;
    }
}

static float ref_softplus(float x)
{
    return x > 20.0f ? x : (float)fmath_log(1.0 + (double)fmath_exp(x));
}

/* v / sqrt(sum of squares + eps) * scale, in place. */
static void ref_l2_norm(float *v, uint32_t n, float scale)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += v[i] * v[i];
    }
    float factor = scale / sqrtf(sum + REF_L2_EPS);
    for (uint32_t i = 0; i < n; i++) {
        v[i] *= factor;
    }
}

static float ref_inverse_rms(const float *v, uint32_t n, float eps)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += v[i] * v[i];
    }
    return 1.0f / sqrtf(sum / (float)n + eps);
}

/* One position of one value head: state, then o [value_dim]. */
static void ref_gdn_head(const struct kern_gdn *op, const float *q, const float *k, const float *v,
                         float decay, float beta, float *state, float *o)
{
    uint32_t n = op->value_dim;
    float delta[LIMIT_STATE_DIM] = {0};
    for (uint32_t i = 0; i < op->key_dim; i++) {
        for (uint32_t j = 0; j < n; j++) {
            state[i * n + j] *= decay;
            delta[j] += state[i * n + j] * k[i];
        }
    }
    for (uint32_t j = 0; j < n; j++) {
        delta[j] = beta * (v[j] - delta[j]);
        o[j] = 0;
    }
    for (uint32_t i = 0; i < op->key_dim; i++) {
        for (uint32_t j = 0; j < n; j++) {
            state[i * n + j] += k[i] * delta[j];
            o[j] += state[i * n + j] * q[i];
        }
    }
}

static void ref_gdn_row(struct kern_dev *dev, const struct kern_gdn *op, uint32_t row, float *state)
{
    uint32_t conv_n = kern_gdn_conv_n(op);
    uint32_t key_n = op->key_head_n * op->key_dim;
    uint32_t dim = op->value_dim;
    const float *x = op->x + (size_t)row * kern_gdn_row_n(op);
    const float *z = x + conv_n;
    const float *b = z + op->value_head_n * dim;
    const float *a = b + op->value_head_n;
    float *q = dev->y; /* [conv_n]: q, k, v of all heads */
    float o[LIMIT_STATE_DIM];
    ref_conv(&op->conv, x, conv_n, state + dev->state.state_n, q);
    for (uint32_t h = 0; h < op->key_head_n; h++) {
        ref_l2_norm(q + h * op->key_dim, op->key_dim, 1.0f / sqrtf((float)op->key_dim));
        ref_l2_norm(q + key_n + h * op->key_dim, op->key_dim, 1);
    }
    for (uint32_t h = 0; h < op->value_head_n; h++) {
        const float *head_q = q + h / (op->value_head_n / op->key_head_n) * op->key_dim;
        float beta = 1.0f / (1.0f + fmath_exp(-b[h]));
        float g = -fmath_exp(op->a_log[h]) * ref_softplus(a[h] + op->dt_bias[h]);
        ref_gdn_head(op, head_q, head_q + key_n, q + 2 * key_n + h * dim, fmath_exp(g), beta,
                     state + (size_t)h * op->key_dim * dim, o);
        float scale = ref_inverse_rms(o, dim, op->norm_eps);
        for (uint32_t j = 0; j < dim; j++) {
            ref_store(dev, op->out, ((size_t)row * op->value_head_n + h) * dim + j,
                      o[j] * scale * op->norm[j] * fmath_silu(z[h * dim + j]));
        }
    }
}

/* The rows of one sequence in turn, from where its slot stands or from its beginning. */
void ref_gdn(struct kern_dev *dev, const struct kern_gdn *op)
{
    ASSERT_CMP(kern_gdn_state_n(op), ==, dev->state.state_n);
    ASSERT_CMP(kern_gdn_conv_n(op), ==, dev->state.conv_n);
    ASSERT_CMP(kern_gdn_conv_n(op), <=, dev->args.n_max);
    ASSERT(op->key_dim <= LIMIT_STATE_DIM && op->value_dim <= LIMIT_STATE_DIM);
    ASSERT(op->key_head_n > 0 && op->value_head_n >= op->key_head_n);
    for (uint32_t i = 0; i < dev->step.seq_n; i++) {
        const struct kern_seq *seq = &dev->step.seqs[i];
        float *state = ref_state_slot(dev, op->state_layer, seq->slot);
        if (dev->step.rows[seq->row_first].pos == 0) {
            ref_state_begin(dev, op->state_layer, seq->slot, state);
        }
        for (uint32_t r = 0; r < seq->row_n; r++) {
            ref_gdn_row(dev, op, seq->row_first + r, state);
        }
    }
}

/* One position of one head: state, then y [head_dim]. */
static void ref_ssd_head(const struct kern_ssd *op, const float *x, const float *b, const float *c,
                         float decay, float dt, float d, float *state, float *y)
{
    uint32_t n = op->state_dim;
    for (uint32_t p = 0; p < op->head_dim; p++) {
        float sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            state[p * n + i] = state[p * n + i] * decay + dt * x[p] * b[i];
            sum += state[p * n + i] * c[i];
        }
        y[p] = sum + d * x[p];
    }
}

/* Gate and norm of all heads' y [head_n * head_dim], in place. */
static void ref_ssd_gate(const struct kern_ssd *op, const float *z, float *y)
{
    uint32_t n = op->head_n * op->head_dim;
    uint32_t each = n / op->group_n;
    for (uint32_t i = 0; i < n && op->norm_order != KERN_SSD_NORM_FIRST; i++) {
        y[i] *= fmath_silu(op->multipliers[KERN_SSD_Z] * z[i]);
    }
    for (uint32_t g = 0; g < op->group_n && op->norm_order != KERN_SSD_NO_NORM; g++) {
        float scale = ref_inverse_rms(y + g * each, each, op->norm_eps);
        for (uint32_t i = g * each; i < (g + 1) * each; i++) {
            y[i] = y[i] * scale * op->norm[i];
        }
    }
    for (uint32_t i = 0; i < n && op->norm_order == KERN_SSD_NORM_FIRST; i++) {
        y[i] *= fmath_silu(op->multipliers[KERN_SSD_Z] * z[i]);
    }
}

static void ref_ssd_row(struct kern_dev *dev, const struct kern_ssd *op, uint32_t row, float *state)
{
    uint32_t wide = op->head_n * op->head_dim;
    uint32_t group = op->group_n * op->state_dim;
    uint32_t conv_n = kern_ssd_conv_n(op);
    const float *m = op->multipliers;
    const float *z = op->x + (size_t)row * kern_ssd_row_n(op);
    const float *in = z + wide;
    float *x = dev->y; /* [conv_n]: x, B, C; then [wide]: y */
    float *y = x + conv_n;
    for (uint32_t i = 0; i < conv_n; i++) {
        x[i] = in[i] * m[i < wide ? KERN_SSD_X : i < wide + group ? KERN_SSD_B : KERN_SSD_C];
    }
    ref_conv(&op->conv, x, conv_n, state + dev->state.state_n, x);
    for (uint32_t h = 0; h < op->head_n; h++) {
        const float *b = x + wide + h / (op->head_n / op->group_n) * op->state_dim;
        float dt = ref_softplus(in[conv_n + h] * m[KERN_SSD_DT] + op->dt_bias[h]);
        float decay = fmath_exp(dt * -fmath_exp(op->a_log[h]));
        ref_ssd_head(op, x + h * op->head_dim, b, b + group, decay, dt, op->d[h],
                     state + (size_t)h * op->head_dim * op->state_dim, y + h * op->head_dim);
    }
    ref_ssd_gate(op, z, y);
    for (uint32_t i = 0; i < wide; i++) {
        ref_store(dev, op->out, (size_t)row * wide + i, y[i]);
    }
}

void ref_ssd(struct kern_dev *dev, const struct kern_ssd *op)
{
    ASSERT_CMP(kern_ssd_state_n(op), ==, dev->state.state_n);
    ASSERT_CMP(kern_ssd_conv_n(op), ==, dev->state.conv_n);
    ASSERT_CMP(kern_ssd_row_n(op), <=, dev->args.n_max);
    for (uint32_t i = 0; i < dev->step.seq_n; i++) {
        const struct kern_seq *seq = &dev->step.seqs[i];
        float *state = ref_state_slot(dev, op->state_layer, seq->slot);
        if (dev->step.rows[seq->row_first].pos == 0) {
            ref_state_begin(dev, op->state_layer, seq->slot, state);
        }
        for (uint32_t r = 0; r < seq->row_n; r++) {
            ref_ssd_row(dev, op, seq->row_first + r, state);
        }
    }
}
