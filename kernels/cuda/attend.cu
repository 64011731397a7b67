/* attend: paged ragged causal attention of generated rows; prompt rows are in attend_prompt.cu. A
 * row's keys are cut into splits of CUDA_SPLIT positions; a block takes one split of one KV head,
 * with all query heads that read it, so K and V are read once for them.
 *
 * Order. Within a split: eight lanes share a key, each its pieces of head_dim; the largest score,
 * the sum of weights and the weighted sum of V go by fixed groups of threads. Splits are combined
 * in order by the last block to arrive. So a row's bits depend on its position and its keys only.
 *
 * Bytes: K and V of the row's positions, once per 8 query heads; partial results of a row with
 * several splits, written and read once. Generated rows are memory-bound. */
#include "kernels/cuda/attend.h"

#define ATTEND_THREADS 128
#define ATTEND_WARPS   4
#define ATTEND_HEADS   8 /* query heads at once; more of one KV head go in turns */
#define ATTEND_LANES   8 /* of one key */
#define ATTEND_KEYS                                                                                \
    16                  /* keys that a block's threads take at once: ATTEND_THREADS / ATTEND_LANES \
                         */
#define ATTEND_BLOCKS 8 /* of a multiprocessor */

/* Workspace: where each row's splits begin, join counters, partial results. */
struct attend_memory {
    uint32_t *split_first; /* [row_max + 1] */
    unsigned *joins;       /* [row_max][kv_head_n], zero between launches */
    float *partial; /* [splits][head_n][head_dim + 2]: sum of V, largest score, sum of weights */
};

static struct attend_memory attend_layout(const struct cuda_limits *limits, void *base)
{
    struct attend_memory m;
    m.split_first = static_cast<uint32_t *>(base);
    m.joins = m.split_first + limits->row_max + 1;
    size_t words = limits->row_max + 1 + (size_t)limits->row_max * limits->kv_head_n;
    m.partial = static_cast<float *>(base) + (words + 3) / 4 * 4;
    return m;
}

size_t cuda_attend_bytes(const struct cuda_limits *limits)
{
    size_t words = limits->row_max + 1 + (size_t)limits->row_max * limits->kv_head_n + 4;
    size_t partial = (size_t)cuda_split_max(limits) * limits->head_n * (limits->head_dim + 2);
    return (words + partial) * sizeof(float);
}

/* One block: a running sum over rows. */
static __global__ void __launch_bounds__(ATTEND_THREADS)
    attend_plan(const cuda_step *step, attend_memory m)
{
    SHARED(uint32_t, sums, [ATTEND_THREADS]);
    pdl_wait();
    uint32_t each = (step->row_n + ATTEND_THREADS - 1) / ATTEND_THREADS;
    uint32_t begin = threadIdx.x * each;
    uint32_t end = begin + each < step->row_n ? begin + each : step->row_n;
    uint32_t sum = 0;
    for (uint32_t row = begin; row < end; row++) {
        sum += step->rows[row].pos / CUDA_SPLIT + 1;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    uint32_t at = 0;
    for (uint32_t i = 0; i < threadIdx.x; i++) {
        at += sums[i];
    }
    for (uint32_t row = begin; row < end; row++) {
        m.split_first[row] = at;
        at += step->rows[row].pos / CUDA_SPLIT + 1;
    }
    if (threadIdx.x == ATTEND_THREADS - 1) {
        m.split_first[step->row_n] = at;
    }
    pdl_trigger();
}

void cuda_attend_begin(const struct cuda_ctx *ctx)
{
    launch_cfg cfg = {dim3(1), dim3(ATTEND_THREADS), 0, false, ctx->stream};
    launch(cfg, attend_plan, ctx->step, attend_layout(&ctx->limits, ctx->attention));
}

struct attend_job {
    const cuda_step *step;
    kern_attend op;
    cuda_kv kv;
    attend_memory memory;
};

/* What a block works on. */
struct attend_item {
    uint32_t row, kv_head;
    uint32_t pos;
    uint32_t slot;
    uint32_t head_first, head_n; /* query heads */
};

/* In shared memory, for ATTEND_HEADS heads. */
template <class T> struct attend_shared {
    float *q;      /* [heads][head_dim], times the scale */
    float *score;  /* [heads][CUDA_SPLIT], then weights */
    float *sum;    /* [groups][heads][head_dim]: partial sums of V */
    float *result; /* [heads][head_dim + 2] */
};

template <class T> static DEV attend_shared<T> attend_shared_of(float *base, uint32_t dim)
{
    attend_shared<T> s;
    s.q = base;
    s.score = s.q + ATTEND_HEADS * dim;
    s.result = s.score + ATTEND_HEADS * CUDA_SPLIT;
    s.sum = s.result + ATTEND_HEADS * (dim + 2);
    return s;
}

/* Threads that share a row of V, and how many such groups there are. */
static DEV uint32_t attend_groups(uint32_t dim)
{
    return ATTEND_THREADS / (dim / 8);
}

template <class T> static DEV void attend_widen(const void *p, float (&out)[8])
{
    uint4 raw = ld16(LD_KV, p);
    T v[8];
    memcpy(v, &raw, sizeof v);
    UNROLL
    for (int i = 0; i < 8; i++) {
        out[i] = to_f32(v[i]);
    }
}

/* score[head][key] for the keys of the split; -INFINITY behind the row's position. */
template <class T>
static DEV void attend_scores(const attend_job &job, const attend_item &item,
                              const attend_shared<T> &s, uint32_t first)
{
    uint32_t dim = job.op.head_dim;
    uint32_t lane = threadIdx.x % ATTEND_LANES;
    for (uint32_t at = threadIdx.x / ATTEND_LANES; at < CUDA_SPLIT; at += ATTEND_KEYS) {
        float dot[ATTEND_HEADS] = {};
        bool is_there = first + at <= item.pos;
        /* a warp with no key left: the same for all its lanes */
        bool is_warp_there = first + at - threadIdx.x % 32 / ATTEND_LANES <= item.pos;
        const T *key =
            is_there ? attend_at<T>(job.kv, job.op, ATTEND_K, item.slot, item.kv_head, first + at)
                     : nullptr;
        for (uint32_t d = lane * 8; d < dim && is_there; d += ATTEND_LANES * 8) {
            float k[8];
            attend_widen<T>(key + d, k);
            UNROLL
            for (uint32_t h = 0; h < ATTEND_HEADS; h++) {
                UNROLL
                for (uint32_t i = 0; i < 8; i++) {
                    dot[h] += h < item.head_n ? s.q[h * dim + d + i] * k[i] : 0;
                }
            }
        }
        UNROLL
        for (uint32_t h = 0; h < ATTEND_HEADS; h++) {
            for (int step = ATTEND_LANES / 2; step > 0 && h < item.head_n && is_warp_there;
                 step /= 2) {
                dot[h] += __shfl_xor_sync(0xffffffffu, dot[h], step);
            }
        }
        for (uint32_t h = lane; h < item.head_n; h += ATTEND_LANES) {
            float v = dot[0];
            UNROLL
            for (uint32_t i = 1; i < ATTEND_HEADS; i++) {
                v = h == i ? dot[i] : v;
            }
            s.score[h * CUDA_SPLIT + at] = is_there ? v : -INFINITY;
        }
    }
    __syncthreads();
}

/* Weights in place of scores; a warp per head. */
template <class T>
static DEV void attend_weights(const attend_job &job, const attend_item &item,
                               const attend_shared<T> &s)
{
    uint32_t dim = job.op.head_dim;
    for (uint32_t h = threadIdx.x / 32; h < item.head_n; h += ATTEND_WARPS) {
        float *score = s.score + h * CUDA_SPLIT;
        float most = -INFINITY;
        for (uint32_t i = threadIdx.x % 32; i < CUDA_SPLIT; i += 32) {
            most = fmaxf(most, score[i]);
        }
        for (int step = 16; step > 0; step /= 2) {
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
        }
        float sum = 0;
        for (uint32_t i = threadIdx.x % 32; i < CUDA_SPLIT; i += 32) {
            float w = fast_exp(score[i] - most);
            score[i] = w;
            sum += w;
        }
        for (int step = 16; step > 0; step /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        }
        if (threadIdx.x % 32 == 0) {
            s.result[h * (dim + 2) + dim] = most;
            s.result[h * (dim + 2) + dim + 1] = sum;
        }
    }
    __syncthreads();
}

/* result[head][d] = sum of weight * V over the split: groups of threads take every n-th key, then
 * the groups are added in order. */
template <class T>
static DEV void attend_values(const attend_job &job, const attend_item &item,
                              const attend_shared<T> &s, uint32_t first)
{
    uint32_t dim = job.op.head_dim;
    uint32_t piece_n = dim / 8;
    uint32_t group_n = attend_groups(dim);
    uint32_t group = threadIdx.x / piece_n;
    uint32_t d = threadIdx.x % piece_n * 8;
    uint32_t end = item.pos - first + 1 < CUDA_SPLIT ? item.pos - first + 1 : CUDA_SPLIT;
    float acc[ATTEND_HEADS][8] = {};
    for (uint32_t at = group; at < end && group < group_n; at += group_n) {
        float v[8];
        attend_widen<T>(
            attend_at<T>(job.kv, job.op, ATTEND_V, item.slot, item.kv_head, first + at) + d, v);
        UNROLL
        for (uint32_t h = 0; h < ATTEND_HEADS; h++) {
            float w = h < item.head_n ? s.score[h * CUDA_SPLIT + at] : 0;
            UNROLL
            for (uint32_t i = 0; i < 8; i++) {
                acc[h][i] += w * v[i];
            }
        }
    }
    for (uint32_t h = 0; h < item.head_n && group < group_n; h++) {
        UNROLL
        for (uint32_t i = 0; i < 8; i++) {
            float v = acc[0][i];
            UNROLL
            for (uint32_t j = 1; j < ATTEND_HEADS; j++) {
                v = h == j ? acc[j][i] : v;
            }
            s.sum[(group * ATTEND_HEADS + h) * dim + d + i] = v;
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < item.head_n * dim; i += ATTEND_THREADS) {
        float sum = s.sum[i];
        for (uint32_t g = 1; g < group_n; g++) {
            sum += s.sum[g * ATTEND_HEADS * dim + i];
        }
        s.result[i / dim * (dim + 2) + i % dim] = sum;
    }
    __syncthreads();
}

template <class T>
static DEV void attend_split(const attend_job &job, const attend_item &item,
                             const attend_shared<T> &s, uint32_t split)
{
    attend_scores(job, item, s, split * CUDA_SPLIT);
    attend_weights(job, item, s);
    attend_values(job, item, s, split * CUDA_SPLIT);
}

template <class T>
static DEV void attend_load_q(const attend_job &job, const attend_item &item,
                              const attend_shared<T> &s)
{
    uint32_t dim = job.op.head_dim;
    const float *q = job.op.q + ((size_t)item.row * job.op.head_n + item.head_first) * dim;
    for (uint32_t i = threadIdx.x; i < item.head_n * dim; i += ATTEND_THREADS) {
        s.q[i] = q[i] * job.op.scale;
    }
    __syncthreads();
}

/* Adds the next split's (v, most, sum) to what is there: both scaled to the larger score. */
struct attend_fold {
    float v, most, sum;
};

static DEV attend_fold attend_add(attend_fold a, attend_fold b)
{
    float most = fmaxf(a.most, b.most);
    float x = fast_exp(a.most - most);
    float y = fast_exp(b.most - most);
    return {a.v * x + b.v * y, most, a.sum * x + b.sum * y};
}

template <class T>
static DEV void attend_store(const attend_job &job, const attend_item &item, uint32_t i,
                             attend_fold f)
{
    uint32_t dim = job.op.head_dim;
    T *out = static_cast<T *>(job.op.out);
    size_t at = ((size_t)item.row * job.op.head_n + item.head_first + i / dim) * dim + i % dim;
    out[at] = from_f32<T>(attend_gated(job.op.gate, at, f.v / f.sum));
}

/* All splits of a row were written: folds them in order. */
template <class T>
static DEV void attend_combine(const attend_job &job, const attend_item &item, uint32_t split_first,
                               uint32_t split_n)
{
    uint32_t dim = job.op.head_dim;
    size_t stride = (size_t)job.op.head_n * (dim + 2);
    for (uint32_t i = threadIdx.x; i < item.head_n * dim; i += ATTEND_THREADS) {
        const float *p = job.memory.partial + split_first * stride +
                         (size_t)(item.head_first + i / dim) * (dim + 2);
        attend_fold f = {p[i % dim], p[dim], p[dim + 1]};
        for (uint32_t n = 1; n < split_n; n++) {
            p += stride;
            f = attend_add(f, {p[i % dim], p[dim], p[dim + 1]});
        }
        attend_store<T>(job, item, i, f);
    }
}

static DEV attend_item attend_item_of(const attend_job &job, uint32_t row, uint32_t kv_head)
{
    cuda_row r = job.step->rows[row];
    return {row, kv_head, r.pos, r.slot, 0, 0};
}

/* The row that has split `index` of all. */
static DEV uint32_t attend_row_of(const attend_job &job, uint32_t index)
{
    uint32_t low = 0;
    uint32_t high = job.step->row_n;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (job.memory.split_first[middle] <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* An item is a split and a KV head. */
template <class T>
static __global__ void __launch_bounds__(ATTEND_THREADS) attend_generated(attend_job job)
{
    DYN_SHARED(float, memory);
    SHARED(unsigned, is_last, [1]);
    uint32_t dim = job.op.head_dim;
    uint32_t group = job.op.head_n / job.op.kv_head_n;
    attend_shared<T> s = attend_shared_of<T>(memory, dim);
    pdl_wait();
    uint32_t item_n = job.memory.split_first[job.step->row_n] * job.op.kv_head_n;
    for (uint32_t at = blockIdx.x; at < item_n; at += gridDim.x) {
        uint32_t index = at / job.op.kv_head_n;
        attend_item item = attend_item_of(job, attend_row_of(job, index), at % job.op.kv_head_n);
        uint32_t first = job.memory.split_first[item.row];
        uint32_t split_n = item.pos / CUDA_SPLIT + 1;
        for (uint32_t h = 0; h < group; h += ATTEND_HEADS) {
            item.head_first = item.kv_head * group + h;
            item.head_n = group - h < ATTEND_HEADS ? group - h : ATTEND_HEADS;
            attend_load_q(job, item, s);
            attend_split(job, item, s, index - first);
            float *to =
                job.memory.partial + ((size_t)index * job.op.head_n + item.head_first) * (dim + 2);
            for (uint32_t i = threadIdx.x; i < item.head_n * (dim + 2); i += ATTEND_THREADS) {
                to[i] = s.result[i];
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            unsigned *join = job.memory.joins + (size_t)item.row * job.op.kv_head_n + item.kv_head;
            is_last[0] = flag_join(join, split_n);
        }
        __syncthreads();
        if (is_last[0]) {
            item.head_first = item.kv_head * group;
            item.head_n = group;
            attend_combine<T>(job, item, first, split_n);
        }
        __syncthreads();
    }
    pdl_trigger();
}

template <class T> static void attend_launch(const struct cuda_ctx *ctx, const attend_job &job)
{
    uint32_t dim = job.op.head_dim;
    uint32_t groups = ATTEND_THREADS / (dim / 8);
    size_t floats = (size_t)ATTEND_HEADS * (dim + CUDA_SPLIT + dim + 2 + groups * dim);
    launch_cfg cfg = {dim3(ctx->sm_n * ATTEND_BLOCKS), dim3(ATTEND_THREADS), floats * sizeof(float),
                      true, ctx->stream};
    launch(cfg, attend_generated<T>, job);
}

void cuda_attend(const struct cuda_ctx *ctx, const struct kern_attend *op)
{
    if (ctx->is_prompt) {
        cuda_attend_prompt(ctx, op);
        return;
    }
    attend_job job = {ctx->step, *op, ctx->kv, attend_layout(&ctx->limits, ctx->attention)};
    if (ctx->kv.dtype == DTYPE_BF16) {
        attend_launch<bf16>(ctx, job);
    } else {
        attend_launch<f16>(ctx, job);
    }
}
