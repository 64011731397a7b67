/* gdn and ssd: the convolution and the norms of queries and keys before the recurrence, norm, gate
 * and rounding behind it. Three launches: recurrent_conv, a form of the recurrence, recurrent_end.
 *
 * A row's convolution reads its own inputs and the three before, from x or, at a run's beginning,
 * from the slot: so rows are dealt freely. The slot's new history is written by the last launch,
 * when nobody reads the old one any more.
 *
 * Order. Taps ascending behind the bias. Sums of squares: a lane its every 32nd element ascending,
 * lanes by halves; where a norm is over more than 256 channels, a thread its every 256th, lanes by
 * halves, warps ascending.
 *
 * Bytes: x twice (the gate's part once), work written and read, out; the histories. */
#include "kernels/cuda/block.h"
#include "kernels/cuda/held.h"
#include "kernels/cuda/recurrent.h"

#define CONV_WARPS    4
#define CONV_ROWS     32 /* of a prompt part, of a warp */
#define CONV_FEW_ROWS 4  /* the same of generated rows */
#define CONV_UNIT     LIMIT_STATE_DIM
#define CONV_EACH     (CONV_UNIT / 32) /* channels of a lane */
#define CONV_TAPS     LIMIT_CONV_TAPS
#define L2_EPS        1e-6f /* of the norm of queries and keys: a constant of the delta rule */

static_assert(CONV_TAPS == 4, "four taps are one load");

/* The channels: x_n floats apart from row to row, conv_at from its beginning; multiplied piece by
 * piece. The first norm_n units are heads of unit channels, whose norm becomes 1; the first half of
 * them, queries, is scaled on. */
struct conv_job {
    const cuda_step *step;
    cuda_state state;
    uint32_t layer;
    kern_conv conv;
    const float *x;
    uint32_t x_n, conv_at;
    uint32_t piece_end[2]; /* of the first two pieces */
    float multipliers[3];
    uint32_t norm_n, norm_unit;
    float query_scale;
    uint32_t row_n; /* of a warp */
    float *work;
};

static DEV float warp_sum(float v)
{
    for (int step = 16; step > 0; step /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, step);
    }
    return v;
}

/* Channel c of a row of the part. */
static DEV float conv_input(const conv_job &job, uint32_t row, uint32_t c)
{
    float m = c < job.piece_end[0]   ? job.multipliers[0]
              : c < job.piece_end[1] ? job.multipliers[1]
                                     : job.multipliers[2];
    return job.x[(size_t)row * job.x_n + job.conv_at + c] * m;
}

/* Channel c of the position `back` before row `index` of a run, back at most 3. */
static DEV float conv_before(const conv_job &job, const cuda_run &run, uint32_t index,
                             uint32_t back, uint32_t c)
{
    if (back <= index) {
        return conv_input(job, run.row + index - back, c);
    }
    if (run.pos == 0) {
        return 0;
    }
    const float *history = recurrent_slot(job.state, job.layer, run.slot) + job.state.state_n;
    size_t at = (size_t)(CONV_TAPS - 1 + index - back) * job.state.conv_n + c;
    return __uint_as_float(ld4(LD_STATE, history + at));
}

/* What a lane holds of its channels. */
struct conv_lane {
    float before[CONV_EACH][CONV_TAPS - 1]; /* the inputs, oldest first */
    float out[CONV_EACH];
};

/* One row: its convolution, and what goes into the next one's. */
static DEV void conv_row(const conv_job &job, conv_lane &lane, uint32_t row, uint32_t first,
                         uint32_t end)
{
    UNROLL
    for (uint32_t i = 0; i < CONV_EACH; i++) {
        uint32_t c = first + threadIdx.x % 32 + 32 * i;
        lane.out[i] = 0;
        if (c < end) {
            uint4 raw = ld16(LD_WEIGHT, job.conv.w + (size_t)c * CONV_TAPS);
            float taps[CONV_TAPS];
            memcpy(taps, &raw, sizeof taps);
            float(&before)[CONV_TAPS - 1] = lane.before[i];
            float now = conv_input(job, row, c);
            float sum = job.conv.bias ? job.conv.bias[c] : 0;
            UNROLL
            for (uint32_t j = 0; j < CONV_TAPS - 1; j++) {
                sum += taps[j] * before[j];
            }
            sum += taps[CONV_TAPS - 1] * now;
            lane.out[i] = fmath_silu(sum);
            before[0] = before[1];
            before[1] = before[2];
            before[2] = now;
        }
    }
}

static DEV void conv_begin(const conv_job &job, conv_lane &lane, const cuda_run &run,
                           uint32_t index, uint32_t first, uint32_t end)
{
    UNROLL
    for (uint32_t i = 0; i < CONV_EACH; i++) {
        uint32_t c = first + threadIdx.x % 32 + 32 * i;
        UNROLL
        for (uint32_t j = 0; j < CONV_TAPS - 1; j++) {
            uint32_t back = CONV_TAPS - 1 - j;
            lane.before[i][j] = c < end ? conv_before(job, run, index, back, c) : 0;
        }
    }
}

/* A warp takes a unit of channels, of row_n rows. */
static __global__ void __launch_bounds__(CONV_WARPS * 32) recurrent_conv(conv_job job)
{
    pdl_wait();
    uint32_t unit = blockIdx.y * CONV_WARPS + threadIdx.x / 32;
    uint32_t normed = job.norm_n * job.norm_unit;
    bool is_normed = unit < job.norm_n;
    uint32_t first = is_normed ? unit * job.norm_unit : normed + (unit - job.norm_n) * CONV_UNIT;
    uint32_t most = is_normed ? first + job.norm_unit : first + CONV_UNIT;
    uint32_t end = most < job.state.conv_n ? most : job.state.conv_n;
    uint32_t row = blockIdx.x * job.row_n;
    uint32_t row_end = row + job.row_n < job.step->row_n ? row + job.row_n : job.step->row_n;
    uint32_t run_index = UINT32_MAX;
    conv_lane lane;
    for (; row < row_end && first < end; row++) {
        if (job.step->rows[row].run != run_index) {
            run_index = job.step->rows[row].run;
            cuda_run run = job.step->runs[run_index];
            conv_begin(job, lane, run, row - run.row, first, end);
        }
        conv_row(job, lane, row, first, end);
        float scale = 1;
        if (is_normed) {
            float squares = 0;
            UNROLL
            for (int i = 0; i < CONV_EACH; i++) {
                squares += lane.out[i] * lane.out[i];
            }
            scale = (unit < job.norm_n / 2 ? job.query_scale : 1.0f) /
                    sqrtf(warp_sum(squares) + L2_EPS);
        }
        float *out = job.work + (size_t)row * job.state.conv_n + first;
        UNROLL
        for (uint32_t i = 0; i < CONV_EACH; i++) {
            uint32_t c = threadIdx.x % 32 + 32 * i;
            if (first + c < end) {
                out[c] = lane.out[i] * scale;
            }
        }
    }
    pdl_trigger();
}

static void conv_launch(const struct cuda_ctx *ctx, conv_job job)
{
    uint32_t rest = job.state.conv_n - job.norm_n * job.norm_unit;
    uint32_t unit_n = job.norm_n + (rest + CONV_UNIT - 1) / CONV_UNIT;
    job.row_n = ctx->is_prompt ? CONV_ROWS : CONV_FEW_ROWS;
    launch_cfg cfg = {
        dim3((ctx->row_cap + job.row_n - 1) / job.row_n, (unit_n + CONV_WARPS - 1) / CONV_WARPS),
        dim3(CONV_WARPS * 32), 0, true, ctx->stream};
    launch(cfg, recurrent_conv, job);
}

/* Norm and gate of group_n groups of `each` channels, which stand at value_at in a row of work. The
 * gate's z is at z_at in a row of x; norm_step: from one group's gains to the next. */
struct end_job {
    conv_job conv;
    uint32_t value_at;
    uint32_t group_n, each;
    kern_ssd_norm order;
    const float *norm;
    uint32_t norm_step;
    float norm_eps;
    uint32_t z_at;
    float z_multiplier;
    unsigned *saturated;
    void *out;
};

/* The last three inputs of a run's channels, for whoever goes on from its slot. */
static DEV void end_history(const conv_job &job, const cuda_run &run)
{
    uint32_t n = job.state.conv_n;
    float *history = recurrent_slot(job.state, job.layer, run.slot) + job.state.state_n;
    for (uint32_t c = threadIdx.x; c < n; c += BLOCK_THREADS) {
        float last[CONV_TAPS - 1];
        UNROLL
        for (uint32_t j = 0; j < CONV_TAPS - 1; j++) {
            last[j] = conv_before(job, run, run.row_n, CONV_TAPS - 1 - j, c);
        }
        UNROLL
        for (uint32_t j = 0; j < CONV_TAPS - 1; j++) {
            history[(size_t)j * n + c] = last[j];
        }
    }
}

/* Where a warp, or the block, stands within a group. */
template <class T, bool IS_WARP>
static DEV void end_group(const end_job &job, uint32_t row, uint32_t group)
{
    constexpr uint32_t thread_n = IS_WARP ? 32 : BLOCK_THREADS;
    uint32_t first = threadIdx.x % thread_n;
    const float *y =
        job.conv.work + (size_t)row * job.conv.state.conv_n + job.value_at + group * job.each;
    const float *z = job.conv.x + (size_t)row * job.conv.x_n + job.z_at + group * job.each;
    T *out = static_cast<T *>(job.out) + ((size_t)row * job.group_n + group) * job.each;
    bool is_last = job.order == KERN_SSD_NORM_LAST;
    float scale = 1;
    if (job.order != KERN_SSD_NO_NORM) {
        float squares = 0;
        for (uint32_t i = first; i < job.each; i += thread_n) {
            float v = is_last ? y[i] * fmath_silu(job.z_multiplier * z[i]) : y[i];
            squares += v * v;
        }
        squares = IS_WARP ? warp_sum(squares) : block_reduce<block_add>(squares);
        scale = 1.0f / sqrtf(squares / (float)job.each + job.norm_eps);
    }
    for (uint32_t i = first; i < job.each; i += thread_n) {
        float gate = fmath_silu(job.z_multiplier * z[i]);
        float gain = job.norm ? job.norm[group * job.norm_step + i] : 1;
        float v = is_last ? y[i] * gate * scale * gain : y[i] * scale * gain * gate;
        out[i] = held_of<T>(job.saturated, v);
    }
}

/* A block per row. */
template <class T, bool IS_WARP>
static __global__ void __launch_bounds__(BLOCK_THREADS) recurrent_end(end_job job)
{
    pdl_wait();
    uint32_t row = blockIdx.x;
    if (row >= job.conv.step->row_n) {
        return;
    }
    cuda_run run = job.conv.step->runs[job.conv.step->rows[row].run];
    if (row + 1 == run.row + run.row_n) {
        end_history(job.conv, run);
    }
    uint32_t first = IS_WARP ? threadIdx.x / 32 : 0;
    for (uint32_t group = first; group < job.group_n; group += IS_WARP ? BLOCK_WARPS : 1) {
        end_group<T, IS_WARP>(job, row, group);
    }
    pdl_trigger();
}

template <class T> static void end_launch(const struct cuda_ctx *ctx, const end_job &job)
{
    launch_cfg cfg = {dim3(ctx->row_cap), dim3(BLOCK_THREADS), 0, true, ctx->stream};
    if (job.each <= LIMIT_STATE_DIM) {
        launch(cfg, (recurrent_end<T, true>), job);
    } else {
        launch(cfg, (recurrent_end<T, false>), job);
    }
}

static void end_launch(const struct cuda_ctx *ctx, end_job job)
{
    if (ctx->held == DTYPE_BF16) {
        end_launch<bf16>(ctx, job);
    } else {
        job.saturated = ctx->saturated;
        end_launch<f16>(ctx, job);
    }
}

void cuda_gdn(const struct cuda_ctx *ctx, const struct kern_gdn *op)
{
    uint32_t key_n = op->key_head_n * op->key_dim;
    recurrent_job job = {};
    job.step = ctx->step;
    job.state = ctx->state;
    job.layer = op->state_layer;
    job.head_n = op->value_head_n;
    job.head_share = op->value_head_n / op->key_head_n;
    job.key_dim = op->key_dim;
    job.value_dim = op->value_dim;
    job.key_at = key_n;
    job.value_at = 2 * key_n;
    job.work = cuda_linear_work(ctx);
    job.x = op->x;
    job.x_n = kern_gdn_row_n(op);
    job.gate_at = job.x_n - 2 * op->value_head_n;
    job.a_log = op->a_log;
    job.dt_bias = op->dt_bias;
    conv_job conv = {job.step,    job.state,
                     job.layer,   op->conv,
                     op->x,       job.x_n,
                     0,           {0, 0},
                     {1, 1, 1},   2 * op->key_head_n,
                     op->key_dim, 1.0f / sqrtf((float)op->key_dim),
                     0,           job.work};
    conv_launch(ctx, conv);
    if (ctx->is_prompt) {
        recurrent_gdn_chunk(ctx, job);
    } else {
        recurrent_gdn_step(ctx, job);
    }
    end_launch(ctx, {conv, job.value_at, op->value_head_n, op->value_dim, KERN_SSD_NORM_FIRST,
                     op->norm, 0, op->norm_eps, ctx->state.conv_n, 1, nullptr, op->out});
}

void cuda_ssd(const struct cuda_ctx *ctx, const struct kern_ssd *op)
{
    uint32_t wide = op->head_n * op->head_dim;
    uint32_t group = op->group_n * op->state_dim;
    const float *m = op->multipliers;
    recurrent_job job = {};
    job.step = ctx->step;
    job.state = ctx->state;
    job.layer = op->state_layer;
    job.head_n = op->head_n;
    job.head_share = op->head_n / op->group_n;
    job.key_dim = op->state_dim;
    job.value_dim = op->head_dim;
    job.key_at = wide;
    job.query_at = wide + group;
    job.work = cuda_linear_work(ctx);
    job.x = op->x;
    job.x_n = kern_ssd_row_n(op);
    job.gate_at = job.x_n - op->head_n;
    job.gate_multiplier = m[KERN_SSD_DT];
    job.a_log = op->a_log;
    job.dt_bias = op->dt_bias;
    job.d = op->d;
    conv_job conv = {job.step,
                     job.state,
                     job.layer,
                     op->conv,
                     op->x,
                     job.x_n,
                     wide,
                     {wide, wide + group},
                     {m[KERN_SSD_X], m[KERN_SSD_B], m[KERN_SSD_C]},
                     0,
                     1,
                     1,
                     0,
                     job.work};
    conv_launch(ctx, conv);
    if (ctx->is_prompt) {
        recurrent_ssd_chunk(ctx, job);
    } else {
        recurrent_ssd_step(ctx, job);
    }
    uint32_t each = wide / op->group_n;
    end_launch(ctx, {conv, 0, op->group_n, each, op->norm_order, op->norm, each, op->norm_eps, 0,
                     m[KERN_SSD_Z], nullptr, op->out});
}
