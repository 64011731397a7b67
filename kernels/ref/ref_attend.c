/* ref: causal attention over paged KV, one row and head at a time, blocks of LIMIT_KV_PAGE
 * positions in order with a running maximum, as the law of order says. */
#include "kernels/ref/ref_int.h"

#include <math.h>

#include "kernels/fmath.h"

/* State of one row's head while it walks the blocks. */
struct ref_softmax {
    float max;
    float sum;                 /* of e^(score - max) */
    float acc[LIMIT_HEAD_DIM]; /* of e^(score - max) * v */
};

/* acc += p * v for v = values [at, at + n) of the held type. */
static void ref_add_scaled(const struct kern_dev *dev, const void *v, size_t at, uint32_t n,
                           float p, float *acc)
{
    if (dev->args.held == DTYPE_BF16) {
        const uint16_t *row = (const uint16_t *)v + at;
        for (uint32_t i = 0; i < n; i++) {
            acc[i] += p * bf16_to_f32(row[i]);
        }
    } else {
        const float *row = (const float *)v + at;
        for (uint32_t i = 0; i < n; i++) {
            acc[i] += p * row[i];
        }
    }
}

/* Takes in the positions [first, first + n) of one KV head, n <= LIMIT_KV_PAGE. */
static void ref_attend_block(const struct kern_dev *dev, const void *k, const void *v, uint32_t n,
                             const float *q, struct ref_softmax *state)
{
    float score[LIMIT_KV_PAGE];
    uint32_t dim = dev->kv.head_dim;
    float max = state->max;
    for (uint32_t i = 0; i < n; i++) {
        score[i] = ref_dot(dev, k, (size_t)i * dim, dim, q);
        max = score[i] > max ? score[i] : max;
    }
    float shrink = fmath_exp(state->max - max);
    state->sum *= shrink;
    for (uint32_t d = 0; d < dim; d++) {
        state->acc[d] *= shrink;
    }
    for (uint32_t i = 0; i < n; i++) {
        float p = fmath_exp(score[i] - max);
        state->sum += p;
        ref_add_scaled(dev, v, (size_t)i * dim, dim, p, state->acc);
    }
    state->max = max;
}

static void ref_attend_head(const struct kern_dev *dev, const struct kern_attend *op, uint32_t row,
                            uint32_t head)
{
    const struct kern_seq *seq = dev->row_seq[row];
    ASSERT(seq);
    uint32_t dim = op->head_dim;
    uint32_t kv_head = head / (op->head_n / op->kv_head_n);
    uint32_t pos_n = dev->step.rows[row].pos + 1;
    size_t at = ((size_t)row * op->head_n + head) * dim;
    float q[LIMIT_HEAD_DIM];
    for (uint32_t d = 0; d < dim; d++) {
        q[d] = op->q[at + d] * op->scale;
    }
    struct ref_softmax state = {.max = -INFINITY};
    for (uint32_t first = 0; first < pos_n; first += LIMIT_KV_PAGE) {
        const void *k = ref_kv_at(dev, seq, op->kv_layer, 0, kv_head, first);
        const void *v = ref_kv_at(dev, seq, op->kv_layer, 1, kv_head, first);
        ref_attend_block(dev, k, v, MIN(pos_n - first, LIMIT_KV_PAGE), q, &state);
    }
    for (uint32_t d = 0; d < dim; d++) {
        float gate = op->gate ? 1.0f / (1.0f + fmath_exp(-op->gate[at + d])) : 1.0f;
        ref_store(dev, op->out, at + d, state.acc[d] / state.sum * gate);
    }
}

void ref_attend(struct kern_dev *dev, const struct kern_attend *op)
{
    ASSERT_CMP(op->head_dim, ==, dev->kv.head_dim);
    ASSERT_CMP(op->kv_head_n, ==, dev->kv.kv_head_n);
    ASSERT_CMP(op->head_n % op->kv_head_n, ==, 0);
    for (uint32_t row = 0; row < dev->step.row_n; row++) {
        for (uint32_t head = 0; head < op->head_n; head++) {
            ref_attend_head(dev, op, row, head);
        }
    }
}
