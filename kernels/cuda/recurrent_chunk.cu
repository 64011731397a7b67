/* The chunked form, for prompt rows: a block has 32 columns of one head's state of one sequence in
 * shared memory and walks its chunks, which end at absolute multiples of 64 positions. With G the
 * cumulated log decays of a chunk, S the state before it, rows i and j <= i of it:
 *     gdn: (I + A) V' = beta (V - e^G K S),  A_ij = beta_i (k_i . k_j) e^(G_i - G_j) for j < i
 *     ssd: V' = dt V
 *     out_i = e^G_i S^T q_i + sum_j e^(G_i - G_j) (q_i . k_j) V'_j;   ssd: + d v_i
 *     S <- e^G_last S + sum_j e^(G_last - G_j) k_j V'_j^T
 * The system is solved by forward substitution in blocks of 16 rows. Rows behind a chunk's last are
 * zeros with decay 1, which change nothing. Plain fp32 products; tensor cores are for later.
 *
 * Order. Every sum is one chain in ascending order of keys or rows, over whole chunks whatever rows
 * are there: so a row's bits depend on its sequence and on where the chunk begins, never on its
 * neighbours.
 *
 * Bytes: the state once per sequence; queries and keys of a head once per 32 columns, keys twice.
 */
#include "kernels/cuda/recurrent.h"

#define CHUNK_THREADS 256
#define CHUNK_WARPS   8
#define CHUNK_ROWS    LIMIT_PROMPT_CUT
#define CHUNK_COLUMNS 32
#define CHUNK_SLICE   32                /* keys at once */
#define CHUNK_PITCH   (CHUNK_SLICE + 4) /* 16 bytes, and no bank twice */
#define CHUNK_WIDE    (CHUNK_ROWS + 4)
#define CHUNK_STATE   (CHUNK_COLUMNS + 1)
#define CHUNK_EACH    (CHUNK_ROWS / CHUNK_WARPS) /* rows of a thread, its column the lane */
#define CHUNK_BLOCK   16                         /* rows of a block of the system */

static_assert(CHUNK_ROWS == 64 && CHUNK_THREADS == 256, "a thread has 4 x 4 pairs of rows");

struct chunk_shared {
    float key[CHUNK_ROWS * CHUNK_PITCH];
    float query[CHUNK_ROWS * CHUNK_PITCH];
    float pair[CHUNK_ROWS * CHUNK_WIDE];   /* [i][j]: decayed q_i . k_j */
    float system[CHUNK_ROWS * CHUNK_WIDE]; /* [i][j]: A */
    float value[CHUNK_ROWS * CHUNK_COLUMNS];
    float log_decay[CHUNK_ROWS]; /* each row's own */
    float sum[CHUNK_ROWS];   /* G, the log decays cumulated, in two floats: a difference of two */
    float low[CHUNK_ROWS];   /* must be as exact behind a row that forgets all as elsewhere */
    float input[CHUNK_ROWS]; /* beta or dt */
    float state[1];          /* [key_dim and zeros][CHUNK_STATE] */
};

static DEV uint32_t chunk_key_n(uint32_t key_dim)
{
    return (key_dim + CHUNK_SLICE - 1) / CHUNK_SLICE * CHUNK_SLICE;
}

/* Rows [row ..+row_n) of the part, and the columns of the block. */
struct chunk_item {
    uint32_t row, row_n;
    uint32_t head;
    uint32_t column; /* the lane's */
    bool is_there;   /* it is one */
};

/* A thread's sums over keys: of pairs of rows ty + 16 r and tx + 16 c, and of rows warp + 8 r with
 * the lane's column of the state. */
struct chunk_sums {
    float kk[4][4], qk[4][4];
    float ks[CHUNK_EACH], qs[CHUNK_EACH];
};

/* CHUNK_SLICE keys from `first` on of the rows' keys or queries, which stand at `at`. */
static DEV void chunk_load(const recurrent_job &job, const chunk_item &item, uint32_t at,
                           uint32_t first, float *to)
{
    uint32_t d = first + threadIdx.x % 32;
    const float *from = job.work + (size_t)item.row * job.state.conv_n;
    uint32_t place = at + item.head / job.head_share * job.key_dim + d;
    UNROLL
    for (uint32_t r = 0; r < CHUNK_EACH; r++) {
        uint32_t row = threadIdx.x / 32 + CHUNK_WARPS * r;
        bool is_there = row < item.row_n && d < job.key_dim;
        to[row * CHUNK_PITCH + threadIdx.x % 32] =
            is_there ? from[row * job.state.conv_n + place] : 0;
    }
}

/* Four side by side, 16 bytes in one load. */
struct __align__(16) chunk_vec
{
    float v[4];
};

static DEV chunk_vec chunk_four(const float *p)
{
    return *reinterpret_cast<const chunk_vec *>(p);
}

static DEV float chunk_dot(float sum, const chunk_vec &a, const chunk_vec &b)
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        sum = fmaf(a.v[i], b.v[i], sum);
    }
    return sum;
}

template <bool IS_GDN> static DEV void chunk_pairs(const chunk_shared &s, uint32_t d, chunk_sums &t)
{
    uint32_t tx = threadIdx.x % 16;
    uint32_t ty = threadIdx.x / 16;
    chunk_vec key[4];
    UNROLL
    for (int c = 0; c < 4; c++) {
        key[c] = chunk_four(s.key + (tx + 16 * c) * CHUNK_PITCH + d);
    }
    UNROLL
    for (int r = 0; r < 4; r++) {
        chunk_vec query = chunk_four(s.query + (ty + 16 * r) * CHUNK_PITCH + d);
        UNROLL
        for (int c = 0; c < 4; c++) {
            t.qk[r][c] = chunk_dot(t.qk[r][c], query, key[c]);
        }
        if (IS_GDN) {
            chunk_vec own = chunk_four(s.key + (ty + 16 * r) * CHUNK_PITCH + d);
            UNROLL
            for (int c = 0; c < 4; c++) {
                t.kk[r][c] = chunk_dot(t.kk[r][c], own, key[c]);
            }
        }
    }
}

/* What the rows of `rows` read of the state, whose keys begin at `first`. */
static DEV void chunk_read(const chunk_shared &s, const float *rows, uint32_t first, uint32_t d,
                           float (&sums)[CHUNK_EACH])
{
    const float *from = s.state + (first + d) * CHUNK_STATE + threadIdx.x % 32;
    chunk_vec state = {{from[0], from[CHUNK_STATE], from[2 * CHUNK_STATE], from[3 * CHUNK_STATE]}};
    UNROLL
    for (int r = 0; r < CHUNK_EACH; r++) {
        uint32_t at = (threadIdx.x / 32 + CHUNK_WARPS * r) * CHUNK_PITCH + d;
        sums[r] = chunk_dot(sums[r], chunk_four(rows + at), state);
    }
}

/* Decays and inputs of the chunk's rows; ends with a barrier. */
template <bool IS_GDN>
static DEV void chunk_gates(const recurrent_job &job, const chunk_item &item, chunk_shared &s)
{
    uint32_t i = threadIdx.x;
    if (i < CHUNK_ROWS) {
        recurrent_gates gates = {0, 0};
        if (i < item.row_n) {
            gates = recurrent_gates_of<IS_GDN>(job, item.row + i, item.head);
        }
        s.log_decay[i] = gates.decay;
        s.input[i] = gates.input;
    }
    __syncthreads();
    if (i < CHUNK_ROWS) {
        float sum = s.log_decay[0];
        float low = 0;
        for (uint32_t j = 1; j <= i; j++) {
            float next = sum + s.log_decay[j];
            float added = next - sum;
            low += (sum - (next - added)) + (s.log_decay[j] - added);
            sum = next;
        }
        s.sum[i] = sum;
        s.low[i] = low;
    }
    __syncthreads();
}

/* e^G_i, and e^(G_i - G_j). */
static DEV float chunk_since_begin(const chunk_shared &s, uint32_t i)
{
    return fmath_exp(s.sum[i] + s.low[i]);
}

static DEV float chunk_since(const chunk_shared &s, uint32_t i, uint32_t j)
{
    return fmath_exp((s.sum[i] - s.sum[j]) + (s.low[i] - s.low[j]));
}

/* The pairs' decays; what is behind a row is 0. */
template <bool IS_GDN> static DEV void chunk_decay(chunk_shared &s, const chunk_sums &t)
{
    UNROLL
    for (int r = 0; r < 4; r++) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            uint32_t i = threadIdx.x / 16 + 16 * r;
            uint32_t j = threadIdx.x % 16 + 16 * c;
            float decay = j <= i ? chunk_since(s, i, j) : 0;
            s.pair[i * CHUNK_WIDE + j] = j <= i ? t.qk[r][c] * decay : 0;
            if (IS_GDN) {
                s.system[i * CHUNK_WIDE + j] = j < i ? s.input[i] * t.kk[r][c] * decay : 0;
            }
        }
    }
}

/* (I + A) V' = value, in place; A is strictly lower. Begins and ends with a barrier. */
static DEV void chunk_solve(chunk_shared &s)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    for (uint32_t first = 0; first < CHUNK_ROWS; first += CHUNK_BLOCK) {
        __syncthreads();
        for (uint32_t i = first + warp; i < first + CHUNK_BLOCK && first > 0; i += CHUNK_WARPS) {
            float v = s.value[i * CHUNK_COLUMNS + lane];
            for (uint32_t j = 0; j < first; j++) {
                v = fmaf(-s.system[i * CHUNK_WIDE + j], s.value[j * CHUNK_COLUMNS + lane], v);
            }
            s.value[i * CHUNK_COLUMNS + lane] = v;
        }
        __syncthreads();
        if (warp == 0) {
            float v[CHUNK_BLOCK];
            UNROLL
            for (uint32_t i = 0; i < CHUNK_BLOCK; i++) {
                v[i] = s.value[(first + i) * CHUNK_COLUMNS + lane];
                UNROLL
                for (uint32_t j = 0; j < i; j++) {
                    v[i] = fmaf(-s.system[(first + i) * CHUNK_WIDE + first + j], v[j], v[i]);
                }
                s.value[(first + i) * CHUNK_COLUMNS + lane] = v[i];
            }
        }
    }
    __syncthreads();
}

/* Outputs in place of values, in work; V' becomes e^(G_last - G) V'. Ends with a barrier. */
template <bool IS_GDN>
static DEV void chunk_out(const recurrent_job &job, const chunk_item &item, chunk_shared &s,
                          const chunk_sums &t, float *work)
{
    uint32_t lane = threadIdx.x % 32;
    float out[CHUNK_EACH];
    UNROLL
    for (int r = 0; r < CHUNK_EACH; r++) {
        out[r] = chunk_since_begin(s, threadIdx.x / 32 + CHUNK_WARPS * r) * t.qs[r];
    }
    for (uint32_t j = 0; j < CHUNK_ROWS; j += 4) {
        const float *v = s.value + j * CHUNK_COLUMNS + lane;
        chunk_vec value = {{v[0], v[CHUNK_COLUMNS], v[2 * CHUNK_COLUMNS], v[3 * CHUNK_COLUMNS]}};
        UNROLL
        for (int r = 0; r < CHUNK_EACH; r++) {
            uint32_t i = threadIdx.x / 32 + CHUNK_WARPS * r;
            out[r] = chunk_dot(out[r], chunk_four(s.pair + i * CHUNK_WIDE + j), value);
        }
    }
    __syncthreads();
    UNROLL
    for (int r = 0; r < CHUNK_EACH; r++) {
        uint32_t i = threadIdx.x / 32 + CHUNK_WARPS * r;
        s.value[i * CHUNK_COLUMNS + lane] *= chunk_since(s, CHUNK_ROWS - 1, i);
        if (i < item.row_n && item.is_there) {
            float *to = work + i * job.state.conv_n;
            *to = IS_GDN ? out[r] : out[r] + job.d[item.head] * *to;
        }
    }
    __syncthreads();
}

/* S <- e^G_last S + K^T V', slice by slice. */
static DEV void chunk_write(const recurrent_job &job, const chunk_item &item, chunk_shared &s)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t d = threadIdx.x / 32 * 4;
    float decay = chunk_since_begin(s, CHUNK_ROWS - 1);
    for (uint32_t first = 0; first < job.key_dim; first += CHUNK_SLICE) {
        chunk_load(job, item, job.key_at, first, s.key);
        __syncthreads();
        float *state = s.state + (first + d) * CHUNK_STATE + lane;
        float sum[4];
        UNROLL
        for (int r = 0; r < 4; r++) {
            sum[r] = state[r * CHUNK_STATE] * decay;
        }
        for (uint32_t i = 0; i < CHUNK_ROWS; i++) {
            float value = s.value[i * CHUNK_COLUMNS + lane];
            chunk_vec key = chunk_four(s.key + i * CHUNK_PITCH + d);
            UNROLL
            for (int r = 0; r < 4; r++) {
                sum[r] = fmaf(key.v[r], value, sum[r]);
            }
        }
        UNROLL
        for (int r = 0; r < 4; r++) {
            state[r * CHUNK_STATE] = sum[r];
        }
        __syncthreads();
    }
}

template <bool IS_GDN>
static DEV void chunk_run(const recurrent_job &job, const chunk_item &item, chunk_shared &s)
{
    float *work = job.work + (size_t)item.row * job.state.conv_n + job.value_at +
                  item.head * job.value_dim + (item.is_there ? item.column : 0);
    chunk_sums t = {};
    chunk_gates<IS_GDN>(job, item, s);
    for (uint32_t first = 0; first < job.key_dim; first += CHUNK_SLICE) {
        chunk_load(job, item, job.key_at, first, s.key);
        chunk_load(job, item, job.query_at, first, s.query);
        __syncthreads();
        NO_UNROLL
        for (uint32_t d = 0; d < CHUNK_SLICE; d += 4) {
            chunk_pairs<IS_GDN>(s, d, t);
        }
        NO_UNROLL /* loops apart: registers */
            for (uint32_t d = 0; d < CHUNK_SLICE; d += 4)
        {
            chunk_read(s, s.query, first, d, t.qs);
        }
        NO_UNROLL
        for (uint32_t d = 0; d < CHUNK_SLICE && IS_GDN; d += 4) {
            chunk_read(s, s.key, first, d, t.ks);
        }
        __syncthreads();
    }
    chunk_decay<IS_GDN>(s, t);
    UNROLL
    for (int r = 0; r < CHUNK_EACH; r++) {
        uint32_t i = threadIdx.x / 32 + CHUNK_WARPS * r;
        bool is_there = i < item.row_n && item.is_there;
        float v = is_there ? work[i * job.state.conv_n] : 0;
        v = IS_GDN ? v - chunk_since_begin(s, i) * t.ks[r] : v;
        s.value[i * CHUNK_COLUMNS + threadIdx.x % 32] = s.input[i] * v;
    }
    if (IS_GDN) {
        chunk_solve(s);
    } else {
        __syncthreads();
    }
    chunk_out<IS_GDN>(job, item, s, t, work);
    chunk_write(job, item, s);
}

/* Where element (key, lane's column) of a state is in memory: gdn's has columns side by side, ssd's
 * keys. Threads take them in the order of memory. */
template <bool IS_GDN> struct chunk_place {
    size_t at;       /* in the layer's state */
    uint32_t shared; /* in chunk_shared.state */
    bool is_there;
    DEV chunk_place(const recurrent_job &job, uint32_t head, uint32_t i)
    {
        uint32_t key_n = chunk_key_n(job.key_dim);
        uint32_t key = IS_GDN ? i / CHUNK_COLUMNS : i % key_n;
        uint32_t own = IS_GDN ? i % CHUNK_COLUMNS : i / key_n;
        uint32_t column = blockIdx.x * CHUNK_COLUMNS + own;
        size_t first = (size_t)head * job.key_dim * job.value_dim;
        at = first +
             (IS_GDN ? (size_t)key * job.value_dim + column : (size_t)column * job.key_dim + key);
        shared = key * CHUNK_STATE + own;
        is_there = key < job.key_dim && column < job.value_dim;
    }
};

template <bool IS_GDN>
static __global__ void __launch_bounds__(CHUNK_THREADS, 2) recurrent_chunk(recurrent_job job)
{
    DYN_SHARED(unsigned char, memory);
    chunk_shared &s = *reinterpret_cast<chunk_shared *>(memory);
    pdl_wait();
    cuda_run run = job.step->runs[blockIdx.z];
    chunk_item item;
    item.head = blockIdx.y;
    item.column = blockIdx.x * CHUNK_COLUMNS + threadIdx.x % 32;
    item.is_there = item.column < job.value_dim;
    recurrent_from from = recurrent_begin(job, run);
    uint32_t state_n = chunk_key_n(job.key_dim) * CHUNK_COLUMNS;
    for (uint32_t i = threadIdx.x; i < state_n; i += CHUNK_THREADS) {
        chunk_place<IS_GDN> place(job, item.head, i);
        s.state[place.shared] = place.is_there ? recurrent_load(from, place.at) : 0;
    }
    for (uint32_t done = 0; done < run.row_n; done += item.row_n) {
        uint32_t cut = CHUNK_ROWS - (run.pos + done) % CHUNK_ROWS;
        item.row = run.row + done;
        item.row_n = run.row_n - done < cut ? run.row_n - done : cut;
        chunk_run<IS_GDN>(job, item, s);
    }
    float *to = recurrent_slot(job.state, job.layer, run.slot);
    for (uint32_t i = threadIdx.x; i < state_n; i += CHUNK_THREADS) {
        chunk_place<IS_GDN> place(job, item.head, i);
        if (place.is_there) {
            to[place.at] = s.state[place.shared];
        }
    }
    pdl_trigger();
}

static launch_cfg chunk_cfg(const struct cuda_ctx *ctx, const recurrent_job &job)
{
    uint32_t tile_n = (job.value_dim + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    uint32_t key_n = (job.key_dim + CHUNK_SLICE - 1) / CHUNK_SLICE * CHUNK_SLICE;
    size_t bytes = sizeof(chunk_shared) + (size_t)key_n * CHUNK_STATE * sizeof(float);
    static_assert(sizeof(chunk_shared) + LIMIT_STATE_DIM * CHUNK_STATE * sizeof(float) <= 99 << 10,
                  "a block's, on every target");
    return {dim3(tile_n, job.head_n, ctx->run_cap), dim3(CHUNK_THREADS), bytes, true, ctx->stream};
}

void recurrent_gdn_chunk(const struct cuda_ctx *ctx, const recurrent_job &job)
{
    launch(chunk_cfg(ctx, job), recurrent_chunk<true>, job);
}

void recurrent_ssd_chunk(const struct cuda_ctx *ctx, const recurrent_job &job)
{
    launch(chunk_cfg(ctx, job), recurrent_chunk<false>, job);
}
