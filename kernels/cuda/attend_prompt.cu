/* attend, prompt rows: tensor cores over tiles of consecutive rows of one sequence.
 *
 * A block takes 64 pairs (row, query head) of one KV head, rows in order and the heads of a row
 * side by side: so K and V are read once for all heads that share them, and a tile is full whatever
 * their number is. Each of four warps has 16 pairs, mma's rows. Of K and V one chunk is in shared
 * memory at a time: while scores are made the values arrive, while values are summed the next keys
 * do.
 *
 * Order. A chunk is a page: 64 keys from a multiple of 64 on, whatever rows the tile has. Per row
 * and chunk: scores by k16 steps over head_dim (q scaled, then rounded to the held type); the new
 * largest score; sums scaled to it; weights rounded to the held type; the weighted sum of V by k16
 * steps over keys. The sum of weights is in fp32 by column pairs, the four of a row added at the
 * end. A key behind the row has score -INFINITY: it leaves the largest score, a scale of 1 and
 * weight 0, which adds nothing to a finite V. Chunks behind a row but not behind its tile are
 * walked like that, so a row's bits depend on its position and its keys only.
 *
 * Bytes: K and V of a tile's positions, once per tile; those behind its last row are not read. */
#include "kernels/cuda/attend.h"

#define PROMPT_THREADS 128
#define PROMPT_KEYS    LIMIT_KV_PAGE
#define PROMPT_PAD     8 /* elements behind a row in shared memory: ldmatrix meets no bank twice */
#define PROMPT_NONE    UINT32_MAX
#define PROMPT_HELD    128 /* largest DIM whose q is in registers; else in shared memory */

/* Blocks of a multiprocessor that registers are kept for: as many as go without spills. */
#define PROMPT_BLOCKS(dim) ((dim) <= 64 ? 3 : (dim) <= 128 ? 2 : 1)

static_assert(CUDA_TILE_PAIRS == PROMPT_THREADS / 32 * 16, "a warp has 16 pairs");

struct prompt_job {
    const cuda_step *step;
    kern_attend op;
    cuda_kv kv;
    uint32_t group; /* query heads of a KV head */
};

/* DIM: head_dim and zeros behind it. */
template <class T, int DIM> struct prompt_shared {
    static constexpr int pitch = DIM + PROMPT_PAD;
    static constexpr int steps = DIM / 16;
    T k[PROMPT_KEYS * pitch];
    T v[PROMPT_KEYS * pitch];
    uint4 q[DIM > PROMPT_HELD ? steps *PROMPT_THREADS : 1]; /* each thread's own */
};

/* What a lane works on: two pairs, g and g + 8 of its warp's. */
struct prompt_item {
    uint32_t slot;
    uint32_t last; /* position of the tile's last row */
    uint32_t pos[2];
    uint32_t at[2]; /* where the pair's elements of q and out begin; PROMPT_NONE: no pair */
};

static DEV prompt_item prompt_item_of(const prompt_job &job, uint32_t tile)
{
    const cuda_run *runs = job.step->runs;
    uint32_t low = 0;
    uint32_t high = job.step->run_n;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (runs[middle].tile_first <= tile) {
            low = middle;
        } else {
            high = middle;
        }
    }
    cuda_run run = runs[low];
    uint32_t pair_n = run.row_n * job.group;
    uint32_t pair = (tile - run.tile_first) * CUDA_TILE_PAIRS;
    uint32_t end = pair_n - pair < CUDA_TILE_PAIRS ? pair_n : pair + CUDA_TILE_PAIRS;
    prompt_item item;
    item.slot = run.slot;
    item.last = run.pos + (end - 1) / job.group;
    UNROLL
    for (int i = 0; i < 2; i++) {
        uint32_t own = pair + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * i;
        uint32_t row = (own < end ? own : end - 1) / job.group;
        uint32_t head = blockIdx.y * job.group + own % job.group;
        uint32_t at = ((run.row + row) * job.op.head_n + head) * job.op.head_dim;
        item.pos[i] = run.pos + row;
        item.at[i] = own < end ? at : PROMPT_NONE;
    }
    return item;
}

/* Brings chunk `chunk` of keys or values; zeros behind the tile's last row and behind head_dim. */
template <class T, int DIM>
static DEV void prompt_copy(const prompt_job &job, const prompt_item &item, attend_which which,
                            uint32_t chunk, T *to)
{
    constexpr int pitch = prompt_shared<T, DIM>::pitch;
    constexpr int across = DIM == 96 ? 16 : DIM / 8; /* threads of a row: a power of two */
    constexpr int rows = PROMPT_THREADS / across;
    uint32_t dim = job.op.head_dim;
    uint32_t d = threadIdx.x % across * 8;
    uint32_t row = threadIdx.x / across;
    uint32_t first = chunk * PROMPT_KEYS;
    uint32_t end = d < dim ? item.last + 1 - first : 0;
    const T *from = attend_at<T>(job.kv, job.op, which, item.slot, blockIdx.y, first);
    from += d < dim ? row * dim + d : 0;
    to += row * pitch + d;
    UNROLL
    for (int i = 0; i < PROMPT_KEYS / rows; i++) {
        unsigned bytes = row + i * rows < end ? 16 : 0;
        if (d < DIM) {
            cp_async16(to + i * rows * pitch, from + i * rows * dim, bytes);
            ld_count(LD_KV, bytes);
        }
    }
    cp_async_commit();
}

/* A k16 step of the lane's two pairs, as mma's 16-row operand. */
template <class T>
static DEV void prompt_query(const prompt_job &job, const prompt_item &item, uint32_t step,
                             uint32_t (&q)[4])
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        uint32_t d = step * 16 + i / 2 * 8 + threadIdx.x % 4 * 2;
        const float *from = job.op.q + item.at[i % 2] + d;
        bool is_there = d < job.op.head_dim && item.at[i % 2] != PROMPT_NONE;
        q[i] = is_there ? pack2<T>(from[0] * job.op.scale, from[1] * job.op.scale) : 0;
    }
}

/* Where the lane's row of four 8 x 8 matrices is: a pair of them goes down the rows first, or along
 * the columns. */
template <int PITCH> static DEV uint32_t prompt_matrix(bool is_row_first)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t second = lane / 8 % 2;
    uint32_t third = lane / 16;
    uint32_t row = lane % 8 + 8 * (is_row_first ? second : third);
    return row * PITCH + 8 * (is_row_first ? third : second);
}

/* score = q K^T: 16 pairs by 64 keys; a lane has columns 2 t and 2 t + 1 of each eight. */
template <class T, int DIM>
static DEV void prompt_scores(const prompt_shared<T, DIM> &s,
                              const uint32_t (&held)[DIM > PROMPT_HELD ? 1 : DIM / 16][4],
                              float (&score)[PROMPT_KEYS / 8][4])
{
    constexpr int pitch = prompt_shared<T, DIM>::pitch;
    const T *k = s.k + prompt_matrix<pitch>(false);
    UNROLL
    for (int n = 0; n < PROMPT_KEYS / 8; n++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            score[n][i] = 0;
        }
    }
    UNROLL
    for (int step = 0; step < DIM / 16; step++) {
        uint32_t q[4];
        if constexpr (DIM > PROMPT_HELD) {
            memcpy(q, &s.q[step * PROMPT_THREADS + threadIdx.x], sizeof q);
        } else {
            memcpy(q, held[step], sizeof q);
        }
        UNROLL
        for (int n = 0; n < PROMPT_KEYS / 8; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, k + n * 8 * pitch + step * 16);
            mma<T>(score[n], q, b);
            mma<T>(score[n + 1], q, b + 2);
        }
    }
}

static DEV void prompt_mask(const prompt_item &item, uint32_t first,
                            float (&score)[PROMPT_KEYS / 8][4])
{
    UNROLL
    for (int n = 0; n < PROMPT_KEYS / 8; n++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t key = first + n * 8 + threadIdx.x % 4 * 2 + i % 2;
            score[n][i] = key <= item.pos[i / 2] ? score[n][i] : -INFINITY;
        }
    }
}

/* A row's running results; sum is of the lane's own columns. */
struct prompt_row {
    float most, sum;
};

/* Scores become weights, and what was summed so far is scaled to the new largest score. */
template <int DIM>
static DEV void prompt_weights(float (&score)[PROMPT_KEYS / 8][4], prompt_row (&rows)[2],
                               float (&acc)[DIM / 8][4])
{
    UNROLL
    for (int r = 0; r < 2; r++) {
        float most = rows[r].most;
        UNROLL
        for (int n = 0; n < PROMPT_KEYS / 8; n++) {
            most = fmaxf(most, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        float scale = fast_exp(rows[r].most - most);
        float sum = 0;
        UNROLL
        for (int n = 0; n < PROMPT_KEYS / 8; n++) {
            UNROLL
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                score[n][i] = fast_exp(score[n][i] - most);
                sum += score[n][i];
            }
        }
        rows[r].most = most;
        rows[r].sum = fmaf(rows[r].sum, scale, sum);
        UNROLL
        for (int n = 0; n < DIM / 8; n++) {
            acc[n][2 * r] *= scale;
            acc[n][2 * r + 1] *= scale;
        }
    }
}

/* acc += weights V. */
template <class T, int DIM>
static DEV void prompt_values(const prompt_shared<T, DIM> &s,
                              const float (&weight)[PROMPT_KEYS / 8][4], float (&acc)[DIM / 8][4])
{
    constexpr int pitch = prompt_shared<T, DIM>::pitch;
    const T *v = s.v + prompt_matrix<pitch>(true);
    UNROLL
    for (int step = 0; step < PROMPT_KEYS / 16; step++) {
        const float(&low)[4] = weight[2 * step];
        const float(&high)[4] = weight[2 * step + 1];
        uint32_t p[4] = {pack2<T>(low[0], low[1]), pack2<T>(low[2], low[3]),
                         pack2<T>(high[0], high[1]), pack2<T>(high[2], high[3])};
        UNROLL
        for (int n = 0; n < DIM / 8; n += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, v + step * 16 * pitch + n * 8);
            mma<T>(acc[n], p, b);
            mma<T>(acc[n + 1], p, b + 2);
        }
    }
}

/* A weighted sum may come to -0, which a chunk of zero weights would make +0: + 0 makes them one.
 */
template <class T, int DIM>
static DEV void prompt_store(const prompt_job &job, const prompt_item &item,
                             const prompt_row (&rows)[2], const float (&acc)[DIM / 8][4])
{
    UNROLL
    for (int r = 0; r < 2; r++) {
        float sum = rows[r].sum;
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float inverse = 1.0f / sum;
        T *out = static_cast<T *>(job.op.out) + item.at[r];
        UNROLL
        for (int n = 0; n < DIM / 8; n++) {
            uint32_t d = n * 8 + threadIdx.x % 4 * 2;
            if (item.at[r] != PROMPT_NONE && d < job.op.head_dim) {
                float a = (acc[n][2 * r] + 0.0f) * inverse;
                float b = (acc[n][2 * r + 1] + 0.0f) * inverse;
                uint32_t pair = pack2<T>(attend_gated(job.op.gate, item.at[r] + d, a),
                                         attend_gated(job.op.gate, item.at[r] + d + 1, b));
                memcpy(out + d, &pair, sizeof pair);
            }
        }
    }
}

template <class T, int DIM>
static __global__ void __launch_bounds__(PROMPT_THREADS, PROMPT_BLOCKS(DIM))
    attend_prompt(prompt_job job)
{
    DYN_SHARED(unsigned char, memory);
    prompt_shared<T, DIM> &s = *reinterpret_cast<prompt_shared<T, DIM> *>(memory);
    pdl_wait();
    /* the longest first: later tiles of a sequence have more keys */
    prompt_item item = prompt_item_of(job, gridDim.x - 1 - blockIdx.x);
    prompt_copy<T, DIM>(job, item, ATTEND_K, 0, s.k);
    uint32_t held[DIM > PROMPT_HELD ? 1 : DIM / 16][4];
    UNROLL
    for (int step = 0; step < DIM / 16; step++) {
        uint32_t q[4];
        prompt_query<T>(job, item, step, q);
        if constexpr (DIM > PROMPT_HELD) {
            memcpy(&s.q[step * PROMPT_THREADS + threadIdx.x], q, sizeof q);
        } else {
            memcpy(held[step], q, sizeof q);
        }
    }
    float acc[DIM / 8][4] = {};
    prompt_row rows[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
    for (uint32_t chunk = 0; chunk <= item.last / PROMPT_KEYS; chunk++) {
        float score[PROMPT_KEYS / 8][4];
        cp_async_wait<0>();
        __syncthreads(); /* keys are there, the last values were read */
        prompt_copy<T, DIM>(job, item, ATTEND_V, chunk, s.v);
        prompt_scores<T, DIM>(s, held, score);
        if ((chunk + 1) * PROMPT_KEYS > item.pos[0] + 1) { /* the lane's other row is not before */
            prompt_mask(item, chunk * PROMPT_KEYS, score);
        }
        prompt_weights<DIM>(score, rows, acc);
        cp_async_wait<0>();
        __syncthreads(); /* values are there, the keys were read */
        if (chunk < item.last / PROMPT_KEYS) {
            prompt_copy<T, DIM>(job, item, ATTEND_K, chunk + 1, s.k);
        }
        prompt_values<T, DIM>(s, score, acc);
    }
    prompt_store<T, DIM>(job, item, rows, acc);
    pdl_trigger();
}

template <class T, int DIM>
static void prompt_launch(const struct cuda_ctx *ctx, const prompt_job &job)
{
    static_assert(sizeof(prompt_shared<T, DIM>) <= 99 << 10, "a block's, on every target");
    launch_cfg cfg = {dim3(ctx->tile_n, job.op.kv_head_n), dim3(PROMPT_THREADS),
                      sizeof(prompt_shared<T, DIM>), true, ctx->stream};
    launch(cfg, (attend_prompt<T, DIM>), job);
}

template <class T> static void prompt_launch(const struct cuda_ctx *ctx, const prompt_job &job)
{
    if (job.op.head_dim <= 64) {
        prompt_launch<T, 64>(ctx, job);
    } else if (job.op.head_dim <= 96) {
        prompt_launch<T, 96>(ctx, job);
    } else if (job.op.head_dim <= 128) {
        prompt_launch<T, 128>(ctx, job);
    } else {
        prompt_launch<T, 256>(ctx, job);
    }
}

void cuda_attend_prompt(const struct cuda_ctx *ctx, const struct kern_attend *op)
{
    prompt_job job = {ctx->step, *op, ctx->kv, op->head_n / op->kv_head_n};
    if (ctx->kv.dtype == DTYPE_BF16) {
        prompt_launch<bf16>(ctx, job);
    } else {
        prompt_launch<f16>(ctx, job);
    }
}
