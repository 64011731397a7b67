/* The recurrent mixers: convolution by channels, then the recurrence by sequence and head, then
 * what a norm over several heads needs, by rows. Path functions do the work on each; this file cuts
 * it up. Between the loops rows stand in acc: the convolution's output, and y of ssd behind it. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/effect.h"
#include "kernels/fmath.h"

#define RECURRENT_ROWS 4u /* of one piece of row work */

static_assert(3 * RECURRENT_WIDE <= (size_t)CPU_ATTEND_HEADS * LIMIT_HEAD_DIM &&
                  RECURRENT_WIDE + (size_t)RECURRENT_CHUNK * LIMIT_STATE_DIM <=
                      (size_t)CPU_ATTEND_HEADS * LIMIT_HEAD_DIM &&
                  RECURRENT_CHUNK <= CPU_ATTEND_HEADS && RECURRENT_CHUNK <= LIMIT_KV_PAGE,
              "a chunk's scratch is attention's");

struct recurrent_job {
    struct kern_dev *dev;
    const struct kern_gdn *gdn; /* or */
    const struct kern_ssd *ssd;
    uint32_t layer;
    const struct kern_conv *conv;
    const float *in; /* what goes through conv, of row 0 */
    size_t in_stride;
    uint32_t head_n;
    uint32_t head_state_n;
    size_t stride; /* of a row of acc */
    size_t y_at;   /* ssd: of y in a row of acc */
};

/* Of a state slot in a layer: the state, the convolution's history behind it. */
static float *recurrent_slot(const struct recurrent_job *job, uint32_t slot)
{
    const struct kern_state *state = &job->dev->state;
    ASSERT_CMP(job->layer, <, state->layer_n);
    ASSERT_CMP(slot, <, state->slot_n);
    return job->dev->state_memory +
           ((size_t)job->layer * state->slot_n + slot) * kern_state_slot_n(state);
}

static bool recurrent_is_first(const struct kern_dev *dev, const struct kern_seq *seq)
{
    return dev->step.rows[seq->row_first].pos == 0;
}

/* What channel c of the input of conv is multiplied by. */
static float recurrent_scale(const struct recurrent_job *job, uint32_t c)
{
    const struct kern_ssd *op = job->ssd;
    if (!op) {
        return 1.0f;
    }
    uint32_t wide = op->head_n * op->head_dim;
    uint32_t group = op->group_n * op->state_dim;
    return op->multipliers[c < wide ? KERN_SSD_X : c < wide + group ? KERN_SSD_B : KERN_SSD_C];
}

/* RECURRENT_CHANNELS channels of every sequence. */
static void recurrent_conv_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct recurrent_job *job = arg;
    const struct kern_dev *dev = job->dev;
    uint32_t first = index * RECURRENT_CHANNELS;
    float taps[LIMIT_CONV_TAPS * RECURRENT_CHANNELS] = {0};
    float bias[RECURRENT_CHANNELS] = {0};
    float scale[RECURRENT_CHANNELS] = {0};
    struct cpu_conv conv = {.x_stride = job->in_stride,
                            .n = MIN(RECURRENT_CHANNELS, dev->state.conv_n - first),
                            .taps = taps,
                            .bias = bias,
                            .scale = scale,
                            .history_stride = dev->state.conv_n,
                            .out_stride = job->stride};
    (void)member;
    for (uint32_t c = 0; c < conv.n; c++) {
        for (uint32_t j = 0; j < LIMIT_CONV_TAPS; j++) {
            taps[j * RECURRENT_CHANNELS + c] =
                job->conv->w[(size_t)(first + c) * LIMIT_CONV_TAPS + j];
        }
        bias[c] = job->conv->bias ? job->conv->bias[first + c] : 0;
        scale[c] = recurrent_scale(job, first + c);
    }
    for (uint32_t i = 0; i < dev->step.seq_n; i++) {
        const struct kern_seq *seq = &dev->step.seqs[i];
        conv.x = job->in + seq->row_first * job->in_stride + first;
        conv.row_n = seq->row_n;
        conv.history = recurrent_slot(job, seq->slot) + dev->state.state_n + first;
        conv.is_first = recurrent_is_first(dev, seq);
        conv.out = dev->acc + seq->row_first * job->stride + first;
        dev->path->recurrent->conv(&conv);
    }
}

/* A head's state, with what the sequence begins with where it begins in this step. */
static float *recurrent_state(const struct recurrent_job *job, const struct kern_seq *seq,
                              uint32_t head)
{
    const struct kern_dev *dev = job->dev;
    size_t at = (size_t)head * job->head_state_n;
    float *state = recurrent_slot(job, seq->slot) + at;
    if (!recurrent_is_first(dev, seq)) {
        return state;
    }
    const float *from = NULL;
    float weight = 0;
    for (uint32_t i = 0; i < dev->step.start_n; i++) {
        const struct kern_start *start = &dev->step.starts[i];
        if (start->slot == seq->slot) {
            ASSERT_CMP(start->version, <, dev->args.version_max);
            from = effect_state_at(dev->versions[start->version], job->layer);
            ASSERT(from);
            weight = start->weight;
        }
    }
    dev->path->recurrent->begin(state, from ? from + at : NULL, weight, job->head_state_n);
    return state;
}

/* Rows from r on that are done at once: prompt rows up to a multiple of RECURRENT_CHUNK positions,
 * or a generated one. */
static uint32_t recurrent_take(const struct kern_dev *dev, const struct kern_seq *seq, uint32_t r,
                               bool *out_is_prompt)
{
    const struct kern_row *rows = dev->step.rows + seq->row_first + r;
    uint32_t most = MIN(seq->row_n - r, RECURRENT_CHUNK - rows->pos % RECURRENT_CHUNK);
    uint32_t n = 0;
    while (n < most && rows[n].flags & KERN_ROW_PROMPT) {
        n++;
    }
    *out_is_prompt = n > 0;
    return MAX(n, 1u);
}

static struct cpu_chunk_scratch recurrent_scratch(const struct cpu_scratch *s)
{
    return (struct cpu_chunk_scratch){
        .wide = {s->q, s->q + RECURRENT_WIDE, s->q + 2 * RECURRENT_WIDE, s->o},
        .tall = s->o + RECURRENT_WIDE,
        .square = {s->p, s->s}};
}

static float recurrent_softplus(float x)
{
    return x > 20.0f ? x : (float)fmath_log(1.0 + (double)fmath_exp(x));
}

/* The rows of `at` under their norm and gate. */
static void gdn_finish(const struct recurrent_job *job, const struct cpu_gdn_head *at, uint32_t row,
                       uint32_t head)
{
    const struct kern_gdn *op = job->gdn;
    struct kern_dev *dev = job->dev;
    size_t bytes = dtype_bytes(dev->args.held);
    const float *z = op->x + kern_gdn_conv_n(op) + (size_t)head * op->value_dim;
    for (uint32_t i = 0; i < at->row_n; i++) {
        size_t out = ((size_t)(row + i) * op->value_head_n + head) * op->value_dim;
        recurrent_ask(z + (row + i + RECURRENT_AHEAD) * job->in_stride, op->value_dim);
        dev->path->recurrent->gated(dev->args.held,
                                    &(struct cpu_gated){.y = at->o + i * at->o_stride,
                                                        .z = z + (row + i) * job->in_stride,
                                                        .z_scale = 1.0f,
                                                        .norm = op->norm,
                                                        .is_gate_last = true,
                                                        .eps = op->norm_eps,
                                                        .n = op->value_dim,
                                                        .out = (char *)op->out + out * bytes});
    }
}

/* One value head of one sequence. */
static void gdn_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct recurrent_job *job = arg;
    const struct kern_gdn *op = job->gdn;
    struct kern_dev *dev = job->dev;
    const struct kern_seq *seq = &dev->step.seqs[index / op->value_head_n];
    uint32_t head = index % op->value_head_n;
    const struct cpu_chunk_scratch scratch = recurrent_scratch(&dev->scratch[member]);
    const float *b = op->x + kern_gdn_conv_n(op) + (size_t)op->value_head_n * op->value_dim + head;
    float g[RECURRENT_CHUNK];
    float beta[RECURRENT_CHUNK];
    float rate = -fmath_exp(op->a_log[head]);
    size_t key_at = (size_t)head / (op->value_head_n / op->key_head_n) * op->key_dim;
    size_t key_n = (size_t)op->key_head_n * op->key_dim;
    struct cpu_gdn_head at = {.stride = job->stride,
                              .key_dim = op->key_dim,
                              .value_dim = op->value_dim,
                              .g = g,
                              .beta = beta,
                              .state = recurrent_state(job, seq, head),
                              .o = scratch.wide[3],
                              .o_stride = recurrent_stride(op->value_dim)};
    for (uint32_t r = 0; r < seq->row_n; r += at.row_n) {
        bool is_prompt;
        uint32_t row = seq->row_first + r;
        at.row_n = recurrent_take(dev, seq, r, &is_prompt);
        at.q = dev->acc + row * job->stride + key_at;
        at.k = at.q + key_n;
        at.v = dev->acc + row * job->stride + 2 * key_n + (size_t)head * op->value_dim;
        for (uint32_t i = 0; i < at.row_n; i++) {
            const float *gates = b + (row + i) * job->in_stride;
            beta[i] = 1.0f / (1.0f + fmath_exp(-gates[0]));
            g[i] = rate * recurrent_softplus(gates[op->value_head_n] + op->dt_bias[head]);
        }
        if (is_prompt) {
            dev->path->recurrent->gdn_chunk(&at, &scratch);
        } else {
            dev->path->recurrent->gdn_row(&at);
        }
        gdn_finish(job, &at, row, head);
    }
}

void cpu_gdn(struct kern_dev *dev, const struct kern_gdn *op)
{
    uint32_t conv_n = kern_gdn_conv_n(op);
    struct recurrent_job job = {.dev = dev,
                                .gdn = op,
                                .layer = op->state_layer,
                                .conv = &op->conv,
                                .in = op->x,
                                .in_stride = kern_gdn_row_n(op),
                                .head_n = op->value_head_n,
                                .head_state_n = op->key_dim * op->value_dim,
                                .stride = ROUND_UP((size_t)conv_n, 16)};
    ASSERT_CMP(kern_gdn_state_n(op), ==, dev->state.state_n);
    ASSERT_CMP(conv_n, ==, dev->state.conv_n);
    ASSERT_CMP(job.stride, <=, dev->acc_stride_max);
    ASSERT(op->key_dim <= LIMIT_STATE_DIM && op->value_dim <= LIMIT_STATE_DIM);
    team_each(dev->team, DIV_UP(conv_n, RECURRENT_CHANNELS), recurrent_conv_unit, &job);
    team_each(dev->team, dev->step.seq_n * job.head_n, gdn_unit, &job);
}

/* One head of one sequence. */
static void ssd_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct recurrent_job *job = arg;
    const struct kern_ssd *op = job->ssd;
    struct kern_dev *dev = job->dev;
    const struct kern_seq *seq = &dev->step.seqs[index / op->head_n];
    uint32_t head = index % op->head_n;
    const struct cpu_chunk_scratch scratch = recurrent_scratch(&dev->scratch[member]);
    size_t wide = (size_t)op->head_n * op->head_dim;
    size_t group_at = (size_t)head / (op->head_n / op->group_n) * op->state_dim;
    float g[RECURRENT_CHUNK];
    float dt[RECURRENT_CHUNK];
    float rate = -fmath_exp(op->a_log[head]);
    struct cpu_ssd_head at = {.stride = job->stride,
                              .head_dim = op->head_dim,
                              .state_dim = op->state_dim,
                              .g = g,
                              .dt = dt,
                              .d = op->d[head],
                              .state = recurrent_state(job, seq, head),
                              .y_stride = job->stride};
    for (uint32_t r = 0; r < seq->row_n; r += at.row_n) {
        bool is_prompt;
        uint32_t row = seq->row_first + r;
        float *mixed = dev->acc + row * job->stride;
        at.row_n = recurrent_take(dev, seq, r, &is_prompt);
        at.x = mixed + (size_t)head * op->head_dim;
        at.b = mixed + wide + group_at;
        at.c = at.b + (size_t)op->group_n * op->state_dim;
        at.y = mixed + job->y_at + (size_t)head * op->head_dim;
        for (uint32_t i = 0; i < at.row_n; i++) {
            float raw = job->in[(row + i) * job->in_stride + dev->state.conv_n + head];
            dt[i] = recurrent_softplus(raw * op->multipliers[KERN_SSD_DT] + op->dt_bias[head]);
            g[i] = dt[i] * rate;
        }
        if (is_prompt) {
            dev->path->recurrent->ssd_chunk(&at, &scratch);
        } else {
            dev->path->recurrent->ssd_row(&at);
        }
    }
}

/* Gate and norm: over a group's heads, so all heads of the row are done. */
static void ssd_gate_unit(void *arg, uint32_t index, uint32_t member)
{
    const struct recurrent_job *job = arg;
    const struct kern_ssd *op = job->ssd;
    struct kern_dev *dev = job->dev;
    uint32_t wide = op->head_n * op->head_dim;
    uint32_t each = wide / op->group_n;
    size_t bytes = dtype_bytes(dev->args.held);
    bool has_norm = op->norm_order != KERN_SSD_NO_NORM;
    uint32_t end = MIN((index + 1) * RECURRENT_ROWS, dev->step.row_n);
    (void)member;
    for (uint32_t row = index * RECURRENT_ROWS; row < end; row++) {
        for (uint32_t i = 0; i < wide; i += each) {
            dev->path->recurrent->gated(
                dev->args.held,
                &(struct cpu_gated){.y = dev->acc + row * job->stride + job->y_at + i,
                                    .z = op->x + row * job->in_stride + i,
                                    .z_scale = op->multipliers[KERN_SSD_Z],
                                    .norm = has_norm ? op->norm + i : NULL,
                                    .is_gate_last = op->norm_order == KERN_SSD_NORM_FIRST,
                                    .eps = op->norm_eps,
                                    .n = each,
                                    .out = (char *)op->out + ((size_t)row * wide + i) * bytes});
        }
    }
}

void cpu_ssd(struct kern_dev *dev, const struct kern_ssd *op)
{
    uint32_t wide = op->head_n * op->head_dim;
    uint32_t conv_n = kern_ssd_conv_n(op);
    struct recurrent_job job = {.dev = dev,
                                .ssd = op,
                                .layer = op->state_layer,
                                .conv = &op->conv,
                                .in = op->x + wide,
                                .in_stride = kern_ssd_row_n(op),
                                .head_n = op->head_n,
                                .head_state_n = op->head_dim * op->state_dim,
                                .y_at = ROUND_UP((size_t)conv_n, 16)};
    job.stride = job.y_at + ROUND_UP((size_t)wide, 16);
    ASSERT_CMP(kern_ssd_state_n(op), ==, dev->state.state_n);
    ASSERT_CMP(conv_n, ==, dev->state.conv_n);
    ASSERT_CMP(job.stride, <=, dev->acc_stride_max);
    ASSERT(op->head_dim <= LIMIT_STATE_DIM && op->state_dim <= LIMIT_STATE_DIM);
    team_each(dev->team, DIV_UP(conv_n, RECURRENT_CHANNELS), recurrent_conv_unit, &job);
    team_each(dev->team, dev->step.seq_n * job.head_n, ssd_unit, &job);
    team_each(dev->team, DIV_UP(dev->step.row_n, RECURRENT_ROWS), ssd_gate_unit, &job);
}
