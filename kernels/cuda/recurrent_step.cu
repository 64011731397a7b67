/* The recurrent form, for generated rows: a block has a tile of one head's state of one sequence in
 * registers, reads and writes it once, and takes the sequence's rows in order.
 *
 * Order. gdn: a warp has a quarter of the keys and sums them ascending; the four quarters are added
 * in order. ssd: a lane has every 32nd element of the state and sums them ascending; lanes are
 * added by halves. So a row's bits depend on its sequence only.
 *
 * Bytes: the state, read and written once per sequence and layer: memory-bound. */
#include "kernels/cuda/recurrent.h"

#define STEP_THREADS 128
#define STEP_WARPS   4
#define STEP_COLUMNS 32 /* of gdn's state, in a tile */
#define STEP_ROWS    8  /* of ssd's state, of a warp */

/* The sum over all keys of each column's parts, one of each warp. */
static DEV float step_sum(float *parts, float part)
{
    uint32_t lane = threadIdx.x % 32;
    parts[threadIdx.x] = part;
    __syncthreads();
    float sum = parts[lane];
    for (uint32_t w = 1; w < STEP_WARPS; w++) {
        sum += parts[w * 32 + lane];
    }
    return sum;
}

/* KEYS: key_dim and zeros behind it. */
template <int KEYS> struct step_shared {
    float query[KEYS];
    float key[KEYS];
    float retrieved[STEP_THREADS];
    float out[STEP_THREADS];
    float decay, beta;
};

/* One row: EACH keys of the state by each warp, a column by each lane. */
template <int KEYS>
static DEV void gdn_row(const recurrent_job &job, step_shared<KEYS> &s, uint32_t row,
                        float (&state)[KEYS / STEP_WARPS])
{
    constexpr int each = KEYS / STEP_WARPS;
    uint32_t head = blockIdx.y;
    uint32_t first = threadIdx.x / 32 * each;
    uint32_t column = blockIdx.x * STEP_COLUMNS + threadIdx.x % 32;
    bool is_there = column < job.value_dim;
    float *work = job.work + (size_t)row * job.state.conv_n;
    float *value = work + job.value_at + head * job.value_dim + (is_there ? column : 0);
    const float *key = work + head / job.head_share * job.key_dim;
    for (uint32_t i = threadIdx.x; i < KEYS; i += STEP_THREADS) {
        s.query[i] = i < job.key_dim ? key[job.query_at + i] : 0;
        s.key[i] = i < job.key_dim ? key[job.key_at + i] : 0;
    }
    if (threadIdx.x == 0) {
        recurrent_gates gates = recurrent_gates_of<true>(job, row, head);
        s.decay = fmath_exp(gates.decay);
        s.beta = gates.input;
    }
    float v = is_there ? *value : 0;
    __syncthreads();
    float part = 0;
    UNROLL
    for (int i = 0; i < each; i++) {
        state[i] *= s.decay;
        part += state[i] * s.key[first + i];
    }
    float delta = s.beta * (v - step_sum(s.retrieved, part));
    part = 0;
    UNROLL
    for (int i = 0; i < each; i++) {
        state[i] += s.key[first + i] * delta;
        part += state[i] * s.query[first + i];
    }
    float out = step_sum(s.out, part);
    if (threadIdx.x < 32 && is_there) {
        *value = out;
    }
}

template <int KEYS>
static __global__ void __launch_bounds__(STEP_THREADS) gdn_step(recurrent_job job)
{
    constexpr int each = KEYS / STEP_WARPS;
    SHARED(step_shared<KEYS>, shared, );
    float state[each];
    pdl_wait();
    if (blockIdx.z >= job.step->run_n) {
        return;
    }
    cuda_run run = job.step->runs[blockIdx.z];
    recurrent_from from = recurrent_begin(job, run);
    float *to = recurrent_slot(job.state, job.layer, run.slot);
    uint32_t column = blockIdx.x * STEP_COLUMNS + threadIdx.x % 32;
    uint32_t first = threadIdx.x / 32 * each;
    uint32_t key_n = column < job.value_dim ? job.key_dim : 0;
    size_t at = ((size_t)blockIdx.y * job.key_dim + first) * job.value_dim + column;
    UNROLL
    for (int i = 0; i < each; i++) {
        state[i] = first + i < key_n ? recurrent_load(from, at + (size_t)i * job.value_dim) : 0;
    }
    for (uint32_t r = 0; r < run.row_n; r++) {
        gdn_row<KEYS>(job, shared, run.row + r, state);
    }
    UNROLL
    for (int i = 0; i < each; i++) {
        if (first + i < key_n) {
            to[at + (size_t)i * job.value_dim] = state[i];
        }
    }
    pdl_trigger();
}

void recurrent_gdn_step(const struct cuda_ctx *ctx, const recurrent_job &job)
{
    uint32_t tile_n = (job.value_dim + STEP_COLUMNS - 1) / STEP_COLUMNS;
    launch_cfg cfg = {dim3(tile_n, job.head_n, ctx->run_cap), dim3(STEP_THREADS), 0, true,
                      ctx->stream};
    if (job.key_dim <= 64) {
        launch(cfg, gdn_step<64>, job);
    } else if (job.key_dim <= 128) {
        launch(cfg, gdn_step<128>, job);
    } else {
        launch(cfg, gdn_step<256>, job);
    }
}

/* One row: STEP_ROWS of the state by each warp, every 32nd of their elements by each lane. */
template <int KEYS>
static DEV void ssd_row(const recurrent_job &job, uint32_t row,
                        float (&state)[STEP_ROWS][KEYS / 32])
{
    uint32_t head = blockIdx.y;
    uint32_t lane = threadIdx.x % 32;
    uint32_t first = (blockIdx.x * STEP_WARPS + threadIdx.x / 32) * STEP_ROWS;
    float *work = job.work + (size_t)row * job.state.conv_n;
    float *value = work + job.value_at + head * job.value_dim;
    const float *key = work + head / job.head_share * job.key_dim;
    recurrent_gates gates = recurrent_gates_of<false>(job, row, head);
    float decay = fmath_exp(gates.decay);
    float b[KEYS / 32];
    float c[KEYS / 32];
    UNROLL
    for (uint32_t e = 0; e < KEYS / 32; e++) {
        bool is_there = lane + 32 * e < job.key_dim;
        b[e] = is_there ? key[job.key_at + lane + 32 * e] : 0;
        c[e] = is_there ? key[job.query_at + lane + 32 * e] : 0;
    }
    float own = 0;
    UNROLL
    for (uint32_t p = 0; p < STEP_ROWS; p++) {
        float x = first + p < job.value_dim ? value[first + p] : 0;
        float input = gates.input * x;
        float sum = 0;
        UNROLL
        for (int e = 0; e < KEYS / 32; e++) {
            state[p][e] = state[p][e] * decay + input * b[e];
            sum += state[p][e] * c[e];
        }
        for (int step = 16; step > 0; step /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        }
        own = lane == p ? sum + job.d[head] * x : own;
    }
    __syncwarp(); /* all lanes have read the values */
    if (lane < STEP_ROWS && first + lane < job.value_dim) {
        value[first + lane] = own;
    }
}

template <int KEYS>
static __global__ void __launch_bounds__(STEP_THREADS) ssd_step(recurrent_job job)
{
    float state[STEP_ROWS][KEYS / 32];
    pdl_wait();
    if (blockIdx.z >= job.step->run_n) {
        return;
    }
    cuda_run run = job.step->runs[blockIdx.z];
    recurrent_from from = recurrent_begin(job, run);
    float *to = recurrent_slot(job.state, job.layer, run.slot);
    uint32_t lane = threadIdx.x % 32;
    uint32_t first = (blockIdx.x * STEP_WARPS + threadIdx.x / 32) * STEP_ROWS;
    size_t at = ((size_t)blockIdx.y * job.value_dim + first) * job.key_dim + lane;
    UNROLL
    for (uint32_t p = 0; p < STEP_ROWS; p++) {
        UNROLL
        for (uint32_t e = 0; e < KEYS / 32; e++) {
            bool is_there = first + p < job.value_dim && lane + 32 * e < job.key_dim;
            state[p][e] =
                is_there ? recurrent_load(from, at + (size_t)p * job.key_dim + 32 * e) : 0;
        }
    }
    for (uint32_t r = 0; r < run.row_n; r++) {
        ssd_row<KEYS>(job, run.row + r, state);
    }
    UNROLL
    for (uint32_t p = 0; p < STEP_ROWS; p++) {
        UNROLL
        for (uint32_t e = 0; e < KEYS / 32; e++) {
            if (first + p < job.value_dim && lane + 32 * e < job.key_dim) {
                to[at + (size_t)p * job.key_dim + 32 * e] = state[p][e];
            }
        }
    }
    pdl_trigger();
}

void recurrent_ssd_step(const struct cuda_ctx *ctx, const recurrent_job &job)
{
    uint32_t tile_n = (job.value_dim + STEP_WARPS * STEP_ROWS - 1) / (STEP_WARPS * STEP_ROWS);
    launch_cfg cfg = {dim3(tile_n, job.head_n, ctx->run_cap), dim3(STEP_THREADS), 0, true,
                      ctx->stream};
    if (job.key_dim <= 64) {
        launch(cfg, ssd_step<64>, job);
    } else if (job.key_dim <= 128) {
        launch(cfg, ssd_step<128>, job);
    } else {
        launch(cfg, ssd_step<256>, job);
    }
}
