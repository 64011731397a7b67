/* linear: a group of sites that share an input, with every low-rank effect and its post, in one
 * launch (linear.h tells how the work is cut). Memory-bound up to some hundred rows: weights are
 * read once for up to 64 rows, adapters' factors once. */
#include "kernels/cuda/linear_finish.h"
#include "kernels/cuda/linear_mac.h"

/* Rows of x that a launch has, and where the i-th one stands. */
static DEV uint32_t linear_token_total(const linear_job &job)
{
    uint32_t n = job.step->row_n;
    if (job.is_gathered) {
        n = job.from == CUDA_GATHER_SAMPLES ? job.step->sample_n : job.step->score_n;
        n = n > job.first ? n - job.first : 0;
        n = n < job.cap ? n : job.cap;
    }
    return n;
}

static DEV uint32_t linear_token_row(const linear_job &job, uint32_t token)
{
    if (!job.is_gathered) {
        return token;
    }
    return job.from == CUDA_GATHER_SAMPLES ? job.step->samples[job.first + token].row
                                           : job.step->scores[job.first + token].row;
}

/* Elements of slice s that are not behind K, in whole steps. */
static DEV uint32_t linear_slice_len(const linear_job &job, uint32_t s)
{
    uint32_t left = job.op.k - s * job.slice_k;
    left = (left + LINEAR_STEP - 1) / LINEAR_STEP * LINEAR_STEP;
    return left < job.slice_k ? left : job.slice_k;
}

/* The lane's rows of a unit whose first row is r of a group, at slice s. */
template <class T>
static DEV linear_rows linear_base_rows(const linear_job &job, uint32_t group, uint32_t r,
                                        uint32_t s)
{
    linear_rows rows;
    rows.cls = LD_WEIGHT;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t at = r + threadIdx.x % 32 / 4 + 8 * i;
        linear_place p = linear_place_of(job, group, at);
        bool is_there = at < job.group_rows && p.row != UINT32_MAX;
        rows.row[i] = is_there ? static_cast<const T *>(job.op.sites[p.site].w) +
                                     (size_t)p.row * job.stride + s * job.slice_k
                               : nullptr;
    }
    return rows;
}

template <class T>
static DEV linear_rows linear_a_rows(const linear_job &job, const linear_shrink &shrink, uint32_t r,
                                     uint32_t s)
{
    linear_rows rows;
    rows.cls = LD_ADAPTER;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t rank = shrink.rank_first + r + threadIdx.x % 32 / 4 + 8 * i;
        rows.row[i] = rank < shrink.rank ? static_cast<const T *>(shrink.a) +
                                               (size_t)rank * job.stride + s * job.slice_k
                                         : nullptr;
    }
    return rows;
}

/* Stores one value of u, if the token is one of the tile's. */
static DEV void linear_put_u(const linear_job &job, const linear_tiles &tiles,
                             const linear_shrink &shrink, float *u, uint32_t row, uint32_t r,
                             float value)
{
    uint32_t pass = tiles.pass;
    while (tiles.first + shrink.tile >= job.step->tile_first[pass + 1]) {
        pass++;
    }
    uint32_t bit = row % CUDA_PASS_ROWS;
    uint32_t rank = shrink.rank_first + r;
    if (row / CUDA_PASS_ROWS == pass && shrink.mask >> bit & 1 && rank < shrink.rank) {
        uint32_t j = (uint32_t)__popc(shrink.mask & ((1u << bit) - 1));
        u[shrink.u_at + (size_t)j * shrink.pad + rank] = value;
    }
}

struct linear_counts {
    unsigned *leave, *u_ready, *tickets, *groups;
};

static DEV linear_counts linear_counts_of(const linear_job &job)
{
    unsigned *at = job.counters + (size_t)blockIdx.y * job.counter_stride;
    return {at, at + 1, at + 2, at + 2 + job.slice_n};
}

/* The last block to leave makes the counters ready for the next launch. */
static DEV void linear_leave(const linear_job &job, const linear_counts &counts)
{
    __syncthreads();
    if (threadIdx.x == 0 && flag_join(counts.leave, gridDim.x)) {
        for (uint32_t s = 0; s < job.slice_n; s++) {
            counts.tickets[s] = 0;
        }
        *counts.u_ready = 0;
    }
}

/* A group's unit has its sum in memory: true for the block that brought the last one, after every
 * adapter's part is there too. */
static DEV bool linear_arrive(const linear_job &job, const linear_counts &counts, uint32_t group,
                              uint32_t arrive_n, uint32_t shrink_n)
{
    SHARED(unsigned, is_last, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last[0] = arrive_n == 1 || flag_join(counts.groups + group, arrive_n);
        if (is_last[0] && shrink_n > 0) {
            flag_wait(counts.u_ready, shrink_n);
        }
    }
    __syncthreads();
    bool result = is_last[0] != 0;
    __syncthreads();
    (void)job;
    return result;
}

static DEV uint32_t linear_ticket(unsigned *ticket, uint32_t unit_n, uint32_t stride)
{
    SHARED(unsigned, unit, [1]);
    if (threadIdx.x == 0) {
        unit[0] = ticket_next(ticket, unit_n, stride);
    }
    __syncthreads();
    uint32_t result = unit[0];
    __syncthreads();
    return result;
}

/* The narrow form. */
template <class T, int NT> struct narrow {
    static const uint32_t tokens = NT * 8;

    static DEV void stage(const linear_job &job, T *xs, uint32_t pitch, uint32_t slice,
                          uint32_t token_first, uint32_t token_n)
    {
        const T *x = static_cast<const T *>(job.op.x);
        uint32_t pieces = job.slice_k / 8;
        for (uint32_t i = threadIdx.x; i < tokens * pieces; i += LINEAR_THREADS) {
            uint32_t token = i / pieces;
            uint32_t k = slice * job.slice_k + i % pieces * 8;
            bool is_there = token < token_n && k < job.op.k;
            uint32_t row = is_there ? linear_token_row(job, token_first + token) : 0;
            const T *from = x + (size_t)row * job.op.k + (is_there ? k : 0);
            cp_async16(xs + token * pitch + i % pieces * 8, from, is_there ? 16 : 0);
            if (i / LINEAR_THREADS % 32 == 31) {
                cp_async_commit();
                cp_async_wait<0>();
            }
        }
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
    }

    /* This warp's part of a slice, then the four parts added in order: red[r * tokens + token]. */
    static DEV void product(const linear_job &job, const linear_rows &rows, const T *xs,
                            uint32_t pitch, uint32_t slice, float *red)
    {
        float acc[LINEAR_UNIT / 16][NT][4] = {};
        uint32_t warp = threadIdx.x / 32;
        uint32_t len = linear_slice_len(job, slice);
        uint32_t begin = warp * job.part_k;
        uint32_t end = begin + job.part_k < len ? begin + job.part_k : len;
        linear_part<T, NT, LINEAR_UNIT / 16>(acc, rows, job.stride - slice * job.slice_k, xs, pitch,
                                             0, begin, end);
        float *mine = red + warp * LINEAR_UNIT * tokens;
        uint32_t g = threadIdx.x % 32 / 4;
        uint32_t t = threadIdx.x % 4;
        UNROLL
        for (uint32_t m = 0; m < LINEAR_UNIT / 16; m++) {
            UNROLL
            for (int n = 0; n < NT; n++) {
                UNROLL
                for (uint32_t e = 0; e < 4; e++) {
                    mine[(m * 16 + g + e / 2 * 8) * tokens + n * 8 + 2 * t + e % 2] = acc[m][n][e];
                }
            }
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < LINEAR_UNIT * tokens; i += LINEAR_THREADS) {
            float sum = red[i];
            for (uint32_t p = 1; p < LINEAR_PARTS; p++) {
                sum += red[p * LINEAR_UNIT * tokens + i];
            }
            red[i] = sum;
        }
        __syncthreads();
    }
};

template <class T, int NT>
static __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_narrow(linear_job job)
{
    typedef narrow<T, NT> form;
    DYN_SHARED(unsigned char, memory);
    SHARED(linear_tiles, tiles, );
    uint32_t slice = blockIdx.x % job.slice_n;
    uint32_t token_first = blockIdx.y * form::tokens;
    uint32_t pitch = linear_narrow_pitch(job.slice_k);
    T *xs = reinterpret_cast<T *>(memory);
    float *red = reinterpret_cast<float *>(xs + form::tokens * pitch);
    pdl_wait();
    uint32_t total = linear_token_total(job);
    if (token_first >= total) {
        return;
    }
    uint32_t token_n = total - token_first < form::tokens ? total - token_first : form::tokens;
    linear_counts counts = linear_counts_of(job);
    size_t slice_rows = (size_t)job.group_n * job.group_rows;
    float *partial = job.partial + (size_t)blockIdx.y * job.slice_n * slice_rows * form::tokens;
    float *u = job.u + (size_t)blockIdx.y * job.slice_n * job.u_stride;
    linear_find_tiles(job, token_first, form::tokens, LINEAR_UNIT, &tiles);
    form::stage(job, xs, pitch, slice, token_first, token_n);
    uint32_t unit_n = tiles.unit_n + job.group_n * job.unit_n;
    for (;;) {
        uint32_t unit = linear_ticket(counts.tickets + slice, unit_n, job.slice_n);
        if (unit >= unit_n) {
            break;
        }
        if (unit < tiles.unit_n) {
            linear_shrink shrink = linear_shrink_of(job, tiles, unit, LINEAR_UNIT);
            form::product(job, linear_a_rows<T>(job, shrink, 0, slice), xs, pitch, slice, red);
            for (uint32_t i = threadIdx.x; i < LINEAR_UNIT * form::tokens; i += LINEAR_THREADS) {
                linear_put_u(job, tiles, shrink, u + slice * job.u_stride,
                             token_first + i % form::tokens, i / form::tokens, red[i]);
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                flag_signal(counts.u_ready);
            }
            continue;
        }
        uint32_t group = (unit - tiles.unit_n) / job.unit_n;
        uint32_t r = (unit - tiles.unit_n) % job.unit_n * LINEAR_UNIT;
        form::product(job, linear_base_rows<T>(job, group, r, slice), xs, pitch, slice, red);
        float *to = partial + (slice * slice_rows + group * job.group_rows + r) * form::tokens;
        for (uint32_t i = threadIdx.x; i < LINEAR_UNIT * form::tokens; i += LINEAR_THREADS) {
            if (r + i / form::tokens < job.group_rows) {
                to[i] = red[i];
            }
        }
        if (linear_arrive(job, counts, group, job.unit_n * job.slice_n,
                          tiles.unit_n * job.slice_n)) {
            linear_out out = {red,          form::tokens + 1, group, token_first, token_n,
                              form::tokens, partial,          u,     job.slice_n};
            finish_sum(job, out, job.slice_n);
            finish_group<T>(job, out, tiles);
        }
    }
    linear_leave(job, counts);
    pdl_trigger();
}

/* The wide form. A warp has 32 rows by 32 tokens of the unit's 64 by 64. */
template <class T> struct wide {
    static DEV void stage(const linear_job &job, T *xs, uint32_t k_first, uint32_t len,
                          uint32_t token_first, uint32_t token_n)
    {
        const T *x = static_cast<const T *>(job.op.x);
        for (uint32_t i = threadIdx.x; i < LINEAR_WIDE * (LINEAR_CHUNK / 8); i += LINEAR_THREADS) {
            uint32_t token = i / (LINEAR_CHUNK / 8);
            uint32_t at = i % (LINEAR_CHUNK / 8) * 8;
            bool is_there = token < token_n && at < len && k_first + at < job.op.k;
            uint32_t row = is_there ? linear_token_row(job, token_first + token) : 0;
            const T *from = x + (size_t)row * job.op.k + (is_there ? k_first + at : 0);
            cp_async16(xs + token * LINEAR_WIDE_PITCH + at, from, is_there ? 16 : 0);
        }
        cp_async_commit();
    }

    /* All slices of a unit; total[m][n][e]. `rows_at(s)` gives the lane's rows at slice s. */
    template <class R>
    static DEV void product(const linear_job &job, R rows_at, T *xs, uint32_t token_first,
                            uint32_t token_n, float (&total)[2][4][4])
    {
        uint32_t half = threadIdx.x / 32 % 2 * 32; /* the warp's first token */
        for (uint32_t s = 0; s < job.slice_n; s++) {
            linear_rows rows = rows_at.at(s);
            uint32_t len = linear_slice_len(job, s);
            uint32_t left = job.stride - s * job.slice_k;
            float sum[2][4][4];
            for (uint32_t p = 0; p < LINEAR_PARTS; p++) {
                float acc[2][4][4] = {};
                uint32_t begin = p * job.part_k;
                uint32_t end = begin + job.part_k < len ? begin + job.part_k : len;
                for (uint32_t k = begin; k < end; k += LINEAR_CHUNK) {
                    uint32_t n = end - k < LINEAR_CHUNK ? end - k : LINEAR_CHUNK;
                    stage(job, xs, s * job.slice_k + k, n, token_first, token_n);
                    cp_async_wait<0>();
                    __syncthreads();
                    linear_part<T, 4, 2>(acc, rows, left, xs + half * LINEAR_WIDE_PITCH,
                                         LINEAR_WIDE_PITCH, k, k, k + n);
                    __syncthreads();
                }
                add(sum, acc, p == 0);
            }
            add(total, sum, s == 0);
        }
    }

    static DEV void add(float (&to)[2][4][4], const float (&from)[2][4][4], bool is_first)
    {
        UNROLL
        for (int m = 0; m < 2; m++) {
            UNROLL
            for (int n = 0; n < 4; n++) {
                UNROLL
                for (int e = 0; e < 4; e++) {
                    to[m][n][e] = is_first ? from[m][n][e] : to[m][n][e] + from[m][n][e];
                }
            }
        }
    }

    /* Row and token of an element within the unit. */
    static DEV uint32_t row_of(uint32_t m, uint32_t e)
    {
        return threadIdx.x / 64 * 32 + m * 16 + threadIdx.x % 32 / 4 + e / 2 * 8;
    }

    static DEV uint32_t token_of(uint32_t n, uint32_t e)
    {
        return threadIdx.x / 32 % 2 * 32 + n * 8 + threadIdx.x % 4 * 2 + e % 2;
    }
};

template <class T> struct wide_base_rows {
    const linear_job &job;
    uint32_t group, r;

    DEV linear_rows at(uint32_t s) const
    {
        return linear_base_rows<T>(job, group, r + threadIdx.x / 64 * 32, s);
    }
};

template <class T> struct wide_a_rows {
    const linear_job &job;
    const linear_shrink &shrink;

    DEV linear_rows at(uint32_t s) const
    {
        return linear_a_rows<T>(job, shrink, threadIdx.x / 64 * 32, s);
    }
};

template <class T>
static DEV void wide_shrink(const linear_job &job, const linear_tiles &tiles, uint32_t unit, T *xs,
                            const linear_out &out, float *u)
{
    float total[2][4][4];
    linear_shrink shrink = linear_shrink_of(job, tiles, unit, LINEAR_WIDE);
    wide_a_rows<T> rows = {job, shrink};
    wide<T>::product(job, rows, xs, out.token_first, out.token_n, total);
    for (uint32_t m = 0; m < 2; m++) {
        for (uint32_t n = 0; n < 4; n++) {
            for (uint32_t e = 0; e < 4; e++) {
                linear_put_u(job, tiles, shrink, u, out.token_first + wide<T>::token_of(n, e),
                             wide<T>::row_of(m, e), total[m][n][e]);
            }
        }
    }
}

/* A unit's sum goes straight to y when the group is one unit, else to memory. */
template <class T>
static DEV void wide_base(const linear_job &job, uint32_t group, uint32_t r, T *xs,
                          const linear_out &out, float *partial)
{
    float total[2][4][4];
    wide_base_rows<T> rows = {job, group, r};
    wide<T>::product(job, rows, xs, out.token_first, out.token_n, total);
    for (uint32_t m = 0; m < 2; m++) {
        for (uint32_t n = 0; n < 4; n++) {
            for (uint32_t e = 0; e < 4; e++) {
                uint32_t row = r + wide<T>::row_of(m, e);
                uint32_t token = wide<T>::token_of(n, e);
                if (row < job.group_rows && job.unit_n == 1) {
                    out.y[row * out.pitch + token] = total[m][n][e];
                } else if (row < job.group_rows) {
                    partial[((size_t)group * job.group_rows + row) * LINEAR_WIDE + token] =
                        total[m][n][e];
                }
            }
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_wide(linear_job job)
{
    DYN_SHARED(unsigned char, memory);
    SHARED(linear_tiles, tiles, );
    T *xs = reinterpret_cast<T *>(memory);
    float *y = reinterpret_cast<float *>(xs + LINEAR_WIDE * LINEAR_WIDE_PITCH);
    uint32_t token_first = blockIdx.y * LINEAR_WIDE;
    pdl_wait();
    uint32_t total = linear_token_total(job);
    if (token_first >= total) {
        return;
    }
    uint32_t token_n = total - token_first < LINEAR_WIDE ? total - token_first : LINEAR_WIDE;
    linear_counts counts = linear_counts_of(job);
    size_t rows = (size_t)job.group_n * job.group_rows;
    float *partial = job.partial + (size_t)blockIdx.y * rows * LINEAR_WIDE;
    float *u = job.u + (size_t)blockIdx.y * job.u_stride;
    linear_find_tiles(job, token_first, LINEAR_WIDE, LINEAR_WIDE, &tiles);
    uint32_t unit_n = tiles.unit_n + job.group_n * job.unit_n;
    for (;;) {
        uint32_t unit = linear_ticket(counts.tickets, unit_n, 1);
        if (unit >= unit_n) {
            break;
        }
        uint32_t group = unit < tiles.unit_n ? 0 : (unit - tiles.unit_n) / job.unit_n;
        linear_out out = {y, LINEAR_WIDE + 1, group, token_first, token_n, LINEAR_WIDE, partial, u,
                          1};
        if (unit < tiles.unit_n) {
            wide_shrink<T>(job, tiles, unit, xs, out, u);
            __syncthreads();
            if (threadIdx.x == 0) {
                flag_signal(counts.u_ready);
            }
            continue;
        }
        uint32_t r = (unit - tiles.unit_n) % job.unit_n * LINEAR_WIDE;
        if (!job.product) {
            wide_base<T>(job, group, r, xs, out, partial);
        }
        if (linear_arrive(job, counts, group, job.unit_n, tiles.unit_n)) {
            if (job.product) {
                finish_product(job, out);
            } else if (job.unit_n > 1) {
                finish_sum(job, out, 1);
            }
            finish_group<T>(job, out, tiles);
        }
    }
    linear_leave(job, counts);
    pdl_trigger();
}

/* Sizes of the workspace, in the order they stand: counters, partial sums, u. */
struct linear_memory {
    uint32_t counter_stride;
    size_t counters, partial, u, u_stride;
};

static uint32_t linear_tiles_max(const struct cuda_limits *limits)
{
    return (limits->row_max + LINEAR_WIDE - 1) / LINEAR_WIDE + 1;
}

static struct linear_memory linear_layout(const struct cuda_limits *limits)
{
    struct linear_memory m;
    size_t tiles = linear_tiles_max(limits);
    size_t n_most = limits->n_max > limits->vocab_n ? limits->n_max : limits->vocab_n;
    size_t slices = linear_slice_n(limits->k_max);
    size_t pad = 4 * 256; /* ragged groups: a site each, a head's rows */
    /* every group has 16 rows at least */
    m.counter_stride = (uint32_t)(2 + slices + n_most / 16 + 8);
    /* what follows is aligned for whoever loads 16 bytes at once */
    m.counters = (tiles * m.counter_stride + LINEAR_ALIGN - 1) / LINEAR_ALIGN * LINEAR_ALIGN;
    /* narrow: 32 tokens of every output, once per slice; wide: heads of all rows */
    size_t narrow_n = (size_t)(limits->nk_max / LINEAR_SLICE) + n_most + slices * pad;
    size_t wide_n = tiles * LINEAR_WIDE * ((size_t)limits->n_max + pad);
    size_t product_n = gemm_product_n(limits->row_max, limits->n_max);
    m.partial = narrow_n * 32 > wide_n ? narrow_n * 32 : wide_n;
    m.partial = m.partial > product_n ? m.partial : product_n;
    /* ranks are padded to 16 for each of a row's adapters at each site */
    m.u_stride = (size_t)limits->rank_max + LIMIT_REQUEST_ADAPTERS * LINEAR_SITES * 15;
    size_t narrow_u = slices * 32 * m.u_stride;
    size_t wide_u = tiles * LINEAR_WIDE * m.u_stride;
    m.u = narrow_u > wide_u ? narrow_u : wide_u;
    return m;
}

size_t cuda_linear_bytes(const struct cuda_limits *limits, uint32_t sm_n)
{
    struct linear_memory m = linear_layout(limits);
    (void)sm_n;
    return m.counters * sizeof(unsigned) + (m.partial + m.u) * sizeof(float);
}

float *cuda_linear_work(const struct cuda_ctx *ctx)
{
    struct linear_memory m = linear_layout(&ctx->limits);
    return reinterpret_cast<float *>(static_cast<unsigned *>(ctx->linear) + m.counters);
}

static struct linear_job linear_prepare(const struct cuda_ctx *ctx, const struct kern_linear *op)
{
    struct linear_memory m = linear_layout(&ctx->limits);
    struct linear_job job = {};
    job.step = ctx->step;
    job.op = *op;
    job.stride = cuda_stride(op->k);
    job.slice_n = linear_slice_n(op->k);
    job.slice_k = linear_slice_k(op->k);
    job.part_k = linear_part_k(op->k);
    job.has_lowrank = ctx->has_lowrank;
    job.counters = static_cast<unsigned *>(ctx->linear);
    job.counter_stride = m.counter_stride;
    job.partial = cuda_linear_work(ctx);
    job.u = job.partial + m.partial;
    job.kv = ctx->kv;
    job.rope = ctx->rope;
    job.rotary_n = ctx->rotary_n;
    job.saturated = ctx->held == DTYPE_F16 ? ctx->saturated : nullptr;
    job.u_stride = m.u_stride;
    return job;
}

template <class T>
static void linear_launch(const struct cuda_ctx *ctx, struct linear_job *job, uint32_t token_n)
{
    /* base sums that are there need the wide form's finish only */
    uint32_t cut_n = job->product && token_n <= 32 ? 33 : token_n;
    struct linear_cut cut = linear_cut_of(&job->op, cut_n, ctx->sm_n);
    launch_cfg cfg = {dim3(cut.block_n, cut.tile_n), dim3(LINEAR_THREADS), cut.smem, true,
                      ctx->stream};
    job->group_rows = cut.group_rows;
    job->group_n = cut.group_n;
    job->unit_n = job->product ? 1 : cut.unit_n;
    job->u_stride *= cut.tile_tokens;
    if (cut.is_wide) {
        launch(cfg, linear_wide<T>, *job);
    } else if (cut.tile_tokens == 32) {
        launch(cfg, (linear_narrow<T, 4>), *job);
    } else if (cut.tile_tokens == 16) {
        launch(cfg, (linear_narrow<T, 2>), *job);
    } else {
        launch(cfg, (linear_narrow<T, 1>), *job);
    }
}

static void linear_run(const struct cuda_ctx *ctx, struct linear_job *job, uint32_t token_n)
{
    if (ctx->held == DTYPE_BF16) {
        linear_launch<bf16>(ctx, job, token_n);
    } else {
        linear_launch<f16>(ctx, job, token_n);
    }
}

void cuda_linear(const struct cuda_ctx *ctx, const struct kern_linear *op)
{
    struct linear_job job = linear_prepare(ctx, op);
    if (ctx->is_prompt && gemm_linear(ctx->gemm, op, ctx->row_cap, job.partial)) {
        job.product = job.partial;
    }
    linear_run(ctx, &job, ctx->row_cap);
}

void cuda_logits(const struct cuda_ctx *ctx, const struct cuda_gather *op)
{
    struct kern_linear linear = {};
    linear.x = op->x;
    linear.k = op->k;
    linear.site_n = 1;
    linear.sites[0].n = op->n;
    linear.sites[0].w = op->w;
    linear.post = KERN_POST_STORE;
    linear.out = op->out;
    struct linear_job job = linear_prepare(ctx, &linear);
    job.has_lowrank = false;
    job.is_gathered = true;
    job.from = op->from;
    job.first = op->first;
    job.cap = op->cap;
    linear_run(ctx, &job, op->cap);
}

void cuda_head(const struct cuda_ctx *ctx, const struct kern_head *op)
{
    if (ctx->sample_cap > 0) {
        struct cuda_gather gather = {
            op->x, op->w,           op->vocab_n, op->hidden, CUDA_GATHER_SAMPLES,
            0,     ctx->sample_cap, op->logits};
        cuda_logits(ctx, &gather);
    }
}
