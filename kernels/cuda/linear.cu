/* linear: a group of sites that share an input, with scales of outputs, every low-rank effect and
 * its post, in one launch (linear.h tells how the work is cut); inputs that an effect scales come
 * from a launch before it (scale.cu). Memory-bound up to some hundred rows: weights are
 * read once for up to 128 rows, adapters' factors once for 32. */
#include "kernels/cuda/linear_finish.h"
#include "kernels/cuda/linear_wide.h"

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
static DEV bool linear_arrive(const linear_counts &counts, uint32_t group, uint32_t arrive_n,
                              uint32_t shrink_n)
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
                linear_put_u(shrink, u + slice * job.u_stride, token_first + i % form::tokens,
                             i / form::tokens, red[i], false);
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
        if (linear_arrive(counts, group, job.unit_n * job.slice_n, tiles.unit_n * job.slice_n)) {
            const float *sums = partial + (size_t)group * job.group_rows * form::tokens;
            linear_out out = {red,  form::tokens + 1, group, token_first, token_n, form::tokens,
                              sums, form::tokens,     u,     job.slice_n};
            finish_sum(job, out, job.slice_n, slice_rows * form::tokens);
            finish_group<T>(job, out, tiles);
        }
    }
    linear_leave(job, counts);
    pdl_trigger();
}

/* A group that is complete, 32 tokens at a time. */
template <class T>
static DEV void wide_finish(const linear_job &job, const linear_tiles &tiles, uint32_t group,
                            uint32_t token_first, uint32_t token_n, uint32_t tokens, float *y,
                            const float *sums, size_t slice_stride, const float *u)
{
    for (uint32_t at = 0; at < token_n; at += LINEAR_FINISH) {
        uint32_t n = token_n - at < LINEAR_FINISH ? token_n - at : LINEAR_FINISH;
        linear_out out = {y, LINEAR_FINISH + 1, group,     token_first + at,
                          n, LINEAR_FINISH,     sums + at, tokens,
                          u, job.split_n};
        if (job.product) {
            finish_product(job, out);
        } else {
            finish_sum(job, out, job.split_n, slice_stride);
        }
        finish_group<T>(job, out, tiles);
    }
}

template <class T, int NT>
static __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_wide(linear_job job)
{
    const uint32_t tokens = NT * 8;
    DYN_SHARED(unsigned char, memory);
    SHARED(linear_tiles, tiles, );
    T *xs = reinterpret_cast<T *>(memory);
    float *y = reinterpret_cast<float *>(memory); /* when the products are done */
    uint32_t token_first = blockIdx.y * tokens;
    pdl_wait();
    uint32_t total = linear_token_total(job);
    if (token_first >= total) {
        return;
    }
    uint32_t token_n = total - token_first < tokens ? total - token_first : tokens;
    linear_counts counts = linear_counts_of(job);
    size_t slice_stride = (size_t)job.group_n * job.group_rows * tokens;
    uint32_t arrive_n = job.unit_n * job.split_n;
    /* where a group is one unit its sums are for this block alone */
    size_t own = ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * LINEAR_WIDE * tokens;
    float *u = job.u + (size_t)blockIdx.y * job.split_n * job.u_stride;
    linear_find_tiles(job, token_first, tokens, LINEAR_WIDE, &tiles);
    uint32_t shrink_n = tiles.unit_n * job.split_n;
    uint32_t unit_n = shrink_n + job.group_n * arrive_n;
    for (;;) {
        uint32_t unit = linear_ticket(counts.tickets, unit_n, 1);
        if (unit >= unit_n) {
            break;
        }
        if (unit < shrink_n) {
            wide_shrink<T>(job, tiles, unit / job.split_n, unit % job.split_n, xs, total, u);
            __syncthreads();
            if (threadIdx.x == 0) {
                flag_signal(counts.u_ready);
            }
            continue;
        }
        uint32_t group = (unit - shrink_n) / arrive_n;
        uint32_t split = (unit - shrink_n) % job.split_n;
        uint32_t r = (unit - shrink_n) % arrive_n / job.split_n * LINEAR_WIDE;
        float *sums = job.partial + (size_t)blockIdx.y * job.split_n * slice_stride +
                      (size_t)group * job.group_rows * tokens;
        sums = arrive_n == 1 ? job.partial + own : sums;
        if (!job.product) {
            wide_base<T, NT>(job, group, r, split, xs, token_first, token_n,
                             sums + split * slice_stride);
        }
        if (linear_arrive(counts, group, arrive_n, shrink_n)) {
            wide_finish<T>(job, tiles, group, token_first, token_n, tokens, y, sums, slice_stride,
                           u);
        }
    }
    linear_leave(job, counts);
    pdl_trigger();
}

static size_t linear_round(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t linear_most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Sizes of the workspace, in the order they stand: counters, partial sums, u. */
struct linear_memory {
    uint32_t counter_stride;
    size_t counters, partial, u, u_stride;
};

static struct linear_memory linear_layout(const struct cuda_limits *limits, uint32_t sm_n)
{
    struct linear_memory m;
    size_t tiles = (limits->row_max + LINEAR_WIDE - 1) / LINEAR_WIDE + 1;
    size_t rows = (size_t)linear_round(limits->row_max, LINEAR_TOKENS);
    size_t n_most = limits->n_max > limits->vocab_n ? limits->n_max : limits->vocab_n;
    size_t slices = linear_slice_n(limits->k_max);
    size_t pad = 4 * 256; /* ragged groups: a site each, a head's rows */
    /* every group has 16 rows at least */
    m.counter_stride = (uint32_t)(2 + slices + n_most / 16 + 8);
    m.counters = linear_round(tiles * m.counter_stride, LINEAR_ALIGN);
    /* narrow: 32 tokens of every output, once per slice; wide: heads of all rows, or slices of up
     * to LINEAR_SPLIT_ROWS, or what each block has for itself; products */
    size_t narrow_n = (size_t)(limits->nk_max / LINEAR_SLICE) + n_most + slices * pad;
    size_t split_n = narrow_n * LINEAR_SPLIT_ROWS;
    size_t blocks = sm_n * LINEAR_BLOCKS > tiles ? sm_n * LINEAR_BLOCKS : tiles;
    m.partial = narrow_n * 32;
    m.partial = linear_most(m.partial, rows * ((size_t)limits->n_max + pad));
    m.partial = linear_most(m.partial, split_n < LINEAR_SPLIT_MAX ? split_n : LINEAR_SPLIT_MAX);
    m.partial = linear_most(m.partial, blocks * LINEAR_WIDE * LINEAR_TOKENS);
    m.partial = linear_most(m.partial, gemm_product_n(limits->row_max, limits->n_max));
    /* ranks are padded to 16 for each of a row's adapters at each site */
    m.u_stride = (size_t)limits->rank_max + LIMIT_REQUEST_ADAPTERS * LINEAR_SITES * 15;
    m.u = linear_most(rows, slices * LINEAR_SPLIT_ROWS) * m.u_stride;
    return m;
}

size_t cuda_linear_bytes(const struct cuda_limits *limits, uint32_t sm_n)
{
    struct linear_memory m = linear_layout(limits, sm_n);
    return m.counters * sizeof(unsigned) + (m.partial + m.u) * sizeof(float);
}

float *cuda_linear_work(const struct cuda_ctx *ctx)
{
    struct linear_memory m = linear_layout(&ctx->limits, ctx->sm_n);
    return reinterpret_cast<float *>(static_cast<unsigned *>(ctx->linear) + m.counters);
}

static struct linear_job linear_prepare(const struct cuda_ctx *ctx, const struct kern_linear *op)
{
    struct linear_memory m = linear_layout(&ctx->limits, ctx->sm_n);
    struct linear_job job = {};
    job.step = ctx->step;
    job.op = *op;
    job.store_multiplier = 1;
    job.stride = cuda_stride(op->k);
    job.slice_n = linear_slice_n(op->k);
    job.slice_k = linear_slice_k(op->k);
    job.part_k = linear_part_k(op->k);
    job.has_lowrank = ctx->effects != CUDA_NO_EFFECTS;
    job.has_scales = ctx->effects == CUDA_ALL_EFFECTS;
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
    job->split_n = job->product ? 1 : cut.split_n;
    /* rows of a pass have their places in u together, also where two tiles of tokens share it */
    job->u_stride *= cut.tile_tokens > CUDA_PASS_ROWS ? cut.tile_tokens : CUDA_PASS_ROWS;
    if (cut.is_wide && cut.tile_tokens == LINEAR_TOKENS) {
        launch(cfg, (linear_wide<T, LINEAR_TOKENS / 8>), *job);
    } else if (cut.is_wide) {
        launch(cfg, (linear_wide<T, 8>), *job);
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
    if (ctx->effects == CUDA_ALL_EFFECTS && op->site_n == 1) {
        cuda_scale_rows(ctx, op);
    }
    struct linear_job job = linear_prepare(ctx, op);
    if (ctx->is_prompt && gemm_linear(ctx->gemm, op, ctx->row_cap, job.partial)) {
        job.product = job.partial;
    }
    linear_run(ctx, &job, ctx->row_cap);
}

void cuda_logits(const struct cuda_ctx *ctx, const struct cuda_gather *op)
{
    struct kern_linear linear = {};
    linear.x = const_cast<void *>(op->x); /* no effect stands at the head */
    linear.k = op->k;
    linear.site_n = 1;
    linear.sites[0].n = op->n;
    linear.sites[0].w = op->w;
    linear.post = KERN_POST_STORE;
    linear.out = op->out;
    struct linear_job job = linear_prepare(ctx, &linear);
    job.has_lowrank = false;
    job.has_scales = false;
    job.store_multiplier = op->multiplier;
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
            op->x, op->w,           op->vocab_n,    op->hidden, CUDA_GATHER_SAMPLES,
            0,     ctx->sample_cap, op->multiplier, op->logits};
        cuda_logits(ctx, &gather);
    }
}
