/* ref: embed, join, linear with its effects and posts, head. */
#include "kernels/ref/ref_int.h"

#include <math.h>

#include "kernels/effect.h"
#include "kernels/fmath.h"

/* A chain of sums waits for itself at every step; this many outputs go side by side. */
#define REF_BESIDE 8

float ref_dot(const struct kern_dev *dev, const void *w, size_t at, uint32_t k, const float *x)
{
    float sum = 0;
    if (dev->args.held == DTYPE_BF16) {
        const uint16_t *row = (const uint16_t *)w + at;
        for (uint32_t i = 0; i < k; i++) {
            sum += bf16_to_f32(row[i]) * x[i];
        }
    } else {
        const float *row = (const float *)w + at;
        for (uint32_t i = 0; i < k; i++) {
            sum += row[i] * x[i];
        }
    }
    return sum;
}

/* REF_BESIDE outputs at once, each the same chain as ref_dot's. */
static void ref_dots(const struct kern_dev *dev, const void *w, size_t at, uint32_t k,
                     const float *x, float *y)
{
    float sum[REF_BESIDE] = {0};
    if (dev->args.held == DTYPE_BF16) {
        const uint16_t *rows = (const uint16_t *)w + at;
        for (uint32_t i = 0; i < k; i++) {
            for (size_t j = 0; j < REF_BESIDE; j++) {
                sum[j] += bf16_to_f32(rows[j * k + i]) * x[i];
            }
        }
    } else {
        const float *rows = (const float *)w + at;
        for (uint32_t i = 0; i < k; i++) {
            for (size_t j = 0; j < REF_BESIDE; j++) {
                sum[j] += rows[j * k + i] * x[i];
            }
        }
    }
    memcpy(y, sum, sizeof sum);
}

void ref_matvec(const struct kern_dev *dev, const void *w, uint32_t n, uint32_t k, const float *x,
                float *y)
{
    uint32_t j = 0;
    for (; n - j >= REF_BESIDE; j += REF_BESIDE) {
        ref_dots(dev, w, (size_t)j * k, k, x, y + j);
    }
    for (; j < n; j++) {
        y[j] = ref_dot(dev, w, (size_t)j * k, k, x);
    }
}

const float *ref_widen(struct kern_dev *dev, const void *x, uint32_t row, uint32_t k)
{
    ASSERT_CMP(k, <=, dev->args.k_max);
    for (uint32_t i = 0; i < k; i++) {
        dev->x[i] = ref_load(dev, x, (size_t)row * k + i);
    }
    return dev->x;
}

/* out = v * gain / sqrt(mean of squares + eps); out may be v. */
static void ref_rms_norm(const float *v, uint32_t n, const float *gain, float eps, float *out)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += v[i] * v[i];
    }
    float scale = 1.0f / sqrtf(sum / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = v[i] * scale * gain[i];
    }
}

void ref_embed(struct kern_dev *dev, const struct kern_embed *op)
{
    for (uint32_t row = 0; row < dev->step.row_n; row++) {
        const struct kern_row *r = &dev->step.rows[row];
        uint32_t token = r->flags & KERN_ROW_FROM_SLOT ? dev->slot_token[r->slot] : r->token;
        ASSERT_CMP(token, <, op->vocab_n);
        for (uint32_t i = 0; i < op->hidden; i++) {
            float e = ref_load(dev, op->w, (size_t)token * op->hidden + i);
            op->h[(size_t)row * op->hidden + i] = e * op->multiplier;
        }
    }
}

void ref_join(struct kern_dev *dev, const struct kern_join *op)
{
    ASSERT_CMP(op->part_n, <=, ARRAY_N(op->parts));
    ASSERT_CMP(op->hidden, <=, dev->args.n_max);
    for (uint32_t row = 0; row < dev->step.row_n; row++) {
        float *h = op->h + (size_t)row * op->hidden;
        for (uint32_t i = 0; i < op->hidden && op->part_n > 0; i++) {
            float sum = 0;
            for (uint32_t part = 0; part < op->part_n; part++) {
                const float *p = op->parts[part];
                sum += op->multipliers[part] * p[(size_t)row * op->hidden + i];
            }
            h[i] += sum;
        }
        ref_rms_norm(h, op->hidden, op->gain, op->eps, dev->y);
        for (uint32_t i = 0; i < op->hidden; i++) {
            ref_store(dev, op->x, (size_t)row * op->hidden + i, dev->y[i]);
        }
    }
}

/* y += weight * scale * B (A x) for one row x of width k. */
static void ref_lowrank(struct kern_dev *dev, const struct kern_linear_site *site, uint32_t k,
                        const struct effect_block *block, float weight, float *y)
{
    ASSERT(block);
    ASSERT_CMP(site->site, <, block->site_n);
    const struct effect_lowrank *effect = effect_lowrank_at(block, site->site);
    uint32_t rank = effect->rank;
    ASSERT_CMP(rank, <=, dev->args.rank_max);
    if (rank == 0) {
        return;
    }
    ref_matvec(dev, (const char *)block + effect->a_at, rank, k, dev->x, dev->u);
    for (uint32_t i = 0; i < rank; i++) {
        dev->u[i] *= weight * effect->scale;
    }
    const void *b = (const char *)block + effect->b_at;
    for (uint32_t j = 0; j < site->n; j++) {
        y[j] += ref_dot(dev, b, (size_t)j * rank, rank, dev->u);
    }
}

/* The low-rank effects on one row, in segment order. */
static void ref_effects(struct kern_dev *dev, const struct kern_linear_site *site, uint32_t k,
                        uint32_t row, float *y)
{
    for (uint32_t i = 0; i < dev->step.seg_n; i++) {
        const struct kern_seg *seg = &dev->step.segs[i];
        const struct kern_seg_row *rows = dev->step.seg_rows + seg->row_first;
        ASSERT_CMP(seg->version, <, dev->args.version_max);
        for (uint32_t r = 0; r < seg->row_n; r++) {
            if (rows[r].row == row) {
                ref_lowrank(dev, site, k, dev->versions[seg->version], rows[r].weight, y);
            }
        }
    }
}

/* Factor i of a scale whose vector is v. */
static float ref_factor(const float *v, uint32_t i, float weight)
{
    return weight * v[i] + (1 - weight);
}

/* The scales of a row at a site, in segment order: of x (dev->x, which is rounded again), or of y.
 */
static void ref_scales(struct kern_dev *dev, const struct kern_linear_site *site, uint32_t k,
                       uint32_t row, float *y)
{
    for (uint32_t i = 0; i < dev->step.seg_n; i++) {
        const struct kern_seg *seg = &dev->step.segs[i];
        const struct kern_seg_row *rows = dev->step.seg_rows + seg->row_first;
        const char *block = dev->versions[seg->version];
        const struct effect_scale *scale = effect_scale_at(block, site->site);
        for (uint32_t r = 0; r < seg->row_n && scale; r++) {
            bool is_mine = rows[r].row == row;
            const float *v =
                (const float *)(const void *)(block + (y ? scale->out_at : scale->in_at));
            for (uint32_t j = 0; is_mine && y && scale->out_at && j < site->n; j++) {
                y[j] *= ref_factor(v, j, rows[r].weight);
            }
            for (uint32_t j = 0; is_mine && !y && scale->in_at && j < k; j++) {
                dev->x[j] *= ref_factor(v, j, rows[r].weight);
            }
        }
    }
    for (uint32_t j = 0; !y && j < k && dev->args.held == DTYPE_BF16; j++) {
        dev->x[j] = bf16_round(dev->x[j]);
    }
}

/* Rotate-half by the row's position: dimensions i and i + rotary_n / 2 are a pair. */
static void ref_rope(const struct kern_dev *dev, uint32_t row, float *v)
{
    const float *row_cos = dev->row_cos + (size_t)row * (LIMIT_HEAD_DIM / 2);
    const float *row_sin = dev->row_sin + (size_t)row * (LIMIT_HEAD_DIM / 2);
    uint32_t half = dev->step.rotary_n / 2;
    for (uint32_t i = 0; i < half; i++) {
        float a = v[i];
        float b = v[i + half];
        v[i] = a * row_cos[i] - b * row_sin[i];
        v[i + half] = b * row_cos[i] + a * row_sin[i];
    }
}

/* Norm and rope of one head of q or k, in place. */
static void ref_head_post(const struct kern_dev *dev, const struct kern_heads *heads, uint32_t row,
                          const float *gain, float *v)
{
    if (gain) {
        ref_rms_norm(v, heads->head_dim, gain, heads->norm_eps, v);
    }
    ref_rope(dev, row, v);
}

/* y = the row's q, k, v one after another. */
static void ref_heads(struct kern_dev *dev, const struct kern_heads *heads, uint32_t row, float *y)
{
    uint32_t dim = heads->head_dim;
    ASSERT_CMP(dim, ==, dev->kv.head_dim);
    ASSERT_CMP(heads->kv_head_n, ==, dev->kv.kv_head_n);
    ASSERT_CMP(dev->step.rotary_n, <=, dim);
    uint32_t each = heads->gate_out ? 2 : 1; /* a query head, and its gate */
    for (uint32_t head = 0; head < heads->head_n; head++) {
        float *q = y + (size_t)head * each * dim;
        size_t at = ((size_t)row * heads->head_n + head) * dim;
        ref_head_post(dev, heads, row, heads->q_norm, q);
        memcpy(heads->q_out + at, q, dim * sizeof *q);
        if (heads->gate_out) {
            memcpy(heads->gate_out + at, q + dim, dim * sizeof *q);
        }
    }
    const struct kern_seq *seq = dev->row_seq[row];
    ASSERT(seq);
    uint32_t pos = dev->step.rows[row].pos;
    for (uint32_t head = 0; head < heads->kv_head_n; head++) {
        float *k = y + ((size_t)heads->head_n * each + head) * dim;
        float *v = k + (size_t)heads->kv_head_n * dim;
        ref_head_post(dev, heads, row, heads->k_norm, k);
        void *k_out = ref_kv_at(dev, seq, heads->kv_layer, 0, head, pos);
        void *v_out = ref_kv_at(dev, seq, heads->kv_layer, 1, head, pos);
        for (uint32_t i = 0; i < dim; i++) {
            ref_store(dev, k_out, i, k[i]);
            ref_store(dev, v_out, i, v[i]);
        }
    }
}

/* y = the row's n outputs of all sites, one site after another. */
static void ref_post(struct kern_dev *dev, const struct kern_linear *op, uint32_t row, uint32_t n,
                     float *y)
{
    switch (op->post) {
    case KERN_POST_STORE:
    case KERN_POST_PART:
        memcpy((float *)op->out + (size_t)row * n, y, n * sizeof *y);
        break;
    case KERN_POST_HEADS:
        ref_heads(dev, &op->heads, row, y);
        break;
    case KERN_POST_ACT_MUL:
        n = op->sites[0].n;
        for (uint32_t i = 0; i < n; i++) {
            ref_store(dev, op->out, (size_t)row * n + i,
                      fmath_silu(op->gate_multiplier * y[i]) * y[n + i]);
        }
        break;
    }
}

void ref_linear(struct kern_dev *dev, const struct kern_linear *op)
{
    for (uint32_t row = 0; row < dev->step.row_n; row++) {
        const float *x = ref_widen(dev, op->x, row, op->k);
        uint32_t at = 0;
        if (op->site_n == 1) {
            ref_scales(dev, &op->sites[0], op->k, row, NULL);
        }
        for (uint32_t s = 0; s < op->site_n; s++) {
            const struct kern_linear_site *site = &op->sites[s];
            float *y = dev->y + at;
            at += site->n;
            ASSERT_CMP(at, <=, dev->args.n_max);
            ref_matvec(dev, site->w, site->n, op->k, x, y);
            for (uint32_t j = 0; j < site->n && site->bias; j++) {
                y[j] += site->bias[j];
            }
            ref_scales(dev, site, op->k, row, y);
            ref_effects(dev, site, op->k, row, y);
        }
        ref_post(dev, op, row, at, dev->y);
    }
}

void ref_head(struct kern_dev *dev, const struct kern_head *op)
{
    for (uint32_t i = 0; i < dev->step.sample_n; i++) {
        const float *x = ref_widen(dev, op->x, dev->step.samples[i].row, op->hidden);
        float *logits = op->logits + (size_t)i * op->vocab_n;
        ref_matvec(dev, op->w, op->vocab_n, op->hidden, x, logits);
        ref_scale(logits, op->vocab_n, op->multiplier);
    }
}
