/* The kernels of gpu_limits, from the same words as the backend's. */
#include "perf/gpu_limits.h"

#include "kernels/cuda/dev.h"
#include "kernels/cuda/linear_mac.h"

#define GPU_THREADS 256u
#define GPU_PIECES  4u /* of 16 bytes, that a thread has under way */

static_assert(GPU_THREADS * GPU_PIECES * 16 == GPU_CHUNK, "a block takes a chunk at once");
static_assert(GPU_MMA_WARPS * 32 == GPU_THREADS, "a block of mma");

/* The warp's sum of v goes to *sum; every lane. */
static DEV void warp_add(uint32_t *sum, uint32_t v)
{
    UNROLL
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, lanes);
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(sum, v);
    }
}

static DEV uint32_t piece_sum(uint4 v)
{
    return v.x + v.y + v.z + v.w;
}

static __global__ void __launch_bounds__(GPU_THREADS) fill(uint4 *to, size_t piece_n)
{
    size_t step = (size_t)gridDim.x * GPU_THREADS;
    for (size_t i = blockIdx.x * GPU_THREADS + threadIdx.x; i < piece_n; i += step) {
        to[i] = make_uint4(gpu_word(4 * i), gpu_word(4 * i + 1), gpu_word(4 * i + 2),
                           gpu_word(4 * i + 3));
    }
}

static __global__ void __launch_bounds__(GPU_THREADS)
    verify(const uint32_t *p, size_t word_n, uint32_t *wrong)
{
    size_t step = (size_t)gridDim.x * GPU_THREADS;
    uint32_t mine = 0;
    for (size_t i = blockIdx.x * GPU_THREADS + threadIdx.x; i < word_n; i += step) {
        mine += p[i] != gpu_word(i);
    }
    warp_add(wrong, mine);
}

static __global__ void __launch_bounds__(GPU_THREADS)
    read_all(const uint4 *p, size_t piece_n, uint32_t *sum)
{
    size_t step = (size_t)gridDim.x * GPU_THREADS * GPU_PIECES;
    size_t first = (size_t)blockIdx.x * GPU_THREADS * GPU_PIECES + threadIdx.x;
    uint32_t mine = 0;
    for (size_t i = first; i < piece_n; i += step) {
        uint4 v[GPU_PIECES];
        UNROLL
        for (uint32_t j = 0; j < GPU_PIECES; j++) {
            v[j] = ld16(LD_WEIGHT, p + i + j * GPU_THREADS);
        }
        UNROLL
        for (uint32_t j = 0; j < GPU_PIECES; j++) {
            mine += piece_sum(v[j]);
        }
    }
    warp_add(sum, mine);
}

static __global__ void __launch_bounds__(GPU_THREADS)
    copy_all(uint4 *to, const uint4 *from, size_t piece_n)
{
    size_t step = (size_t)gridDim.x * GPU_THREADS * GPU_PIECES;
    size_t first = (size_t)blockIdx.x * GPU_THREADS * GPU_PIECES + threadIdx.x;
    for (size_t i = first; i < piece_n; i += step) {
        uint4 v[GPU_PIECES];
        UNROLL
        for (uint32_t j = 0; j < GPU_PIECES; j++) {
            v[j] = ld16(LD_WEIGHT, from + i + j * GPU_THREADS);
        }
        UNROLL
        for (uint32_t j = 0; j < GPU_PIECES; j++) {
            to[i + j * GPU_THREADS] = v[j];
        }
    }
}

/* The matrices as the device sees them. */
struct weights_job {
    gpu_weights w;
    uint32_t stride, slice_n, slice_k, part_k;
    uint32_t unit_n; /* of one copy */
};

/* Where the lane's two rows of a unit begin, at the slice's first element. A tile's 8 rows are a
 * row of 32 lanes' pieces there. */
static DEV linear_rows weights_rows(const weights_job &job, uint32_t unit, uint32_t slice)
{
    const bf16 *w = static_cast<const bf16 *>(job.w.w);
    linear_rows rows = {};
    rows.cls = LD_WEIGHT;
    for (uint32_t i = 0; i < 2; i++) {
        size_t first = (size_t)unit * LINEAR_UNIT * job.stride;
        uint32_t lane = threadIdx.x % 32;
        if (job.w.is_tiled) {
            first += (size_t)slice * job.slice_k * LINEAR_UNIT + i * 256 + lane * 8;
        } else {
            first += (size_t)(lane / 4 + 8 * i) * job.stride + slice * job.slice_k;
        }
        rows.row[i] = w + first;
    }
    return rows;
}

/* The loop of linear_part with one 16-row tile, sums in place of products. */
template <bool TILED, uint32_t STEPS>
static DEV uint32_t weights_part(const linear_rows &rows, uint32_t left, uint32_t begin,
                                 uint32_t end)
{
    uint32_t t = threadIdx.x % 4;
    uint32_t sum = 0;
    NO_UNROLL
    for (uint32_t first = begin; first < end; first += STEPS * LINEAR_STEP) {
        uint4 w[STEPS][2];
        UNROLL
        for (uint32_t s = 0; s < STEPS; s++) {
            uint32_t k = first + s * LINEAR_STEP;
            UNROLL
            for (int i = 0; i < 2; i++) {
                uint32_t at = TILED ? k * LINEAR_UNIT : k + 8 * t;
                uint32_t limit = TILED ? left * LINEAR_UNIT : left;
                w[s][i] = linear_load<bf16>(rows, i, at, k < end ? limit : 0);
            }
        }
        UNROLL
        for (uint32_t s = 0; s < STEPS; s++) {
            sum += piece_sum(w[s][0]) + piece_sum(w[s][1]);
        }
    }
    return sum;
}

/* A block has units of one slice, as in the linear; but they are dealt in turn, without tickets. */
template <bool TILED, uint32_t STEPS>
static __global__ void __launch_bounds__(LINEAR_THREADS, 2) weights_read(weights_job job)
{
    uint32_t slice = blockIdx.x % job.slice_n;
    uint32_t block_n = (gridDim.x - slice + job.slice_n - 1) / job.slice_n;
    uint32_t part = threadIdx.x / 32;
    uint32_t left = job.stride - slice * job.slice_k;
    uint32_t len = left < job.slice_k ? left : job.slice_k;
    uint32_t begin = part * job.part_k;
    uint32_t end = begin + job.part_k < len ? begin + job.part_k : len;
    uint32_t unit_n = job.w.copy_n * job.unit_n;
    uint32_t unit_first = job.w.copy_first * job.unit_n;
    uint32_t sum = 0;
    pdl_wait();
    for (uint32_t unit = blockIdx.x / job.slice_n; unit < unit_n; unit += block_n) {
        linear_rows rows = weights_rows(job, unit, slice);
        sum += weights_part<TILED, STEPS>(rows, left, begin, end) *
               gpu_factor(unit_first + unit, LINEAR_PARTS * job.slice_n,
                          LINEAR_PARTS * slice + part, threadIdx.x % 32);
    }
    warp_add(job.w.sum, sum);
    pdl_trigger();
}

static __global__ void empty(uint32_t *count)
{
    pdl_wait();
    if (count && threadIdx.x == 0) {
        atomicAdd(count, 1u);
    }
    pdl_trigger();
}

static DEV uint32_t mma_pair(uint32_t which, uint32_t row, uint32_t k)
{
    return pack2<bf16>((float)gpu_mma_value(which, row, k),
                       (float)gpu_mma_value(which, row, k + 1));
}

/* Eight chains of products in a warp, none of which waits for another. */
static __global__ void __launch_bounds__(GPU_THREADS, 2) multiply(uint32_t loop_n, uint32_t *sum)
{
    uint32_t g = threadIdx.x % 32 / 4;
    uint32_t t = threadIdx.x % 4;
    uint32_t a[GPU_MMA_A][4];
    uint32_t b[GPU_MMA_B][2];
    float d[GPU_MMA_B][4] = {};
    UNROLL
    for (uint32_t i = 0; i < GPU_MMA_A; i++) {
        UNROLL
        for (uint32_t e = 0; e < 4; e++) {
            a[i][e] = mma_pair(i, g + e % 2 * 8, 2 * t + e / 2 * 8);
        }
    }
    UNROLL
    for (uint32_t j = 0; j < GPU_MMA_B; j++) {
        b[j][0] = mma_pair(GPU_MMA_A + j, g, 2 * t);
        b[j][1] = mma_pair(GPU_MMA_A + j, g, 2 * t + 8);
    }
    for (uint32_t loop = 0; loop < loop_n; loop++) {
        UNROLL
        for (uint32_t i = 0; i < GPU_MMA_A; i++) {
            UNROLL
            for (uint32_t j = 0; j < GPU_MMA_B; j++) {
                mma<bf16>(d[j], a[i], b[j]);
            }
        }
    }
    uint32_t mine = 0;
    UNROLL
    for (uint32_t j = 0; j < GPU_MMA_B; j++) {
        UNROLL
        for (uint32_t e = 0; e < 4; e++) {
            mine += (uint32_t)(int)d[j][e] * gpu_mma_factor(j, g + e / 2 * 8, 2 * t + e % 2);
        }
    }
    warp_add(sum, mine);
}

static launch_cfg gpu_cfg(struct dev_stream *stream, uint32_t block_n, uint32_t threads)
{
    return {dim3(block_n), dim3(threads), 0, false, stream};
}

void gpu_fill(struct dev_stream *stream, uint32_t block_n, uint32_t *to, size_t bytes)
{
    launch(gpu_cfg(stream, block_n, GPU_THREADS), fill, reinterpret_cast<uint4 *>(to), bytes / 16);
}

void gpu_verify(struct dev_stream *stream, uint32_t block_n, const uint32_t *p, size_t bytes,
                uint32_t *wrong)
{
    launch(gpu_cfg(stream, block_n, GPU_THREADS), verify, p, bytes / 4, wrong);
}

void gpu_read(struct dev_stream *stream, uint32_t block_n, const void *p, size_t bytes,
              uint32_t *sum)
{
    launch(gpu_cfg(stream, block_n, GPU_THREADS), read_all, static_cast<const uint4 *>(p),
           bytes / 16, sum);
}

void gpu_copy(struct dev_stream *stream, uint32_t block_n, void *to, const void *from, size_t bytes)
{
    launch(gpu_cfg(stream, block_n, GPU_THREADS), copy_all, static_cast<uint4 *>(to),
           static_cast<const uint4 *>(from), bytes / 16);
}

void gpu_weights_read(struct dev_stream *stream, uint32_t block_n, const struct gpu_weights *w,
                      bool is_pdl)
{
    launch_cfg cfg = gpu_cfg(stream, block_n, LINEAR_THREADS);
    weights_job job = {};
    cfg.is_pdl = is_pdl;
    job.w = *w;
    job.stride = cuda_stride(w->k);
    job.slice_n = linear_slice_n(w->k);
    job.slice_k = linear_slice_k(w->k);
    job.part_k = linear_part_k(w->k);
    job.unit_n = w->n / LINEAR_UNIT;
    if (w->is_tiled && w->is_deep) {
        launch(cfg, (weights_read<true, 8>), job);
    } else if (w->is_tiled) {
        launch(cfg, (weights_read<true, 2>), job);
    } else if (w->is_deep) {
        launch(cfg, (weights_read<false, 8>), job);
    } else {
        launch(cfg, (weights_read<false, 2>), job);
    }
}

void gpu_empty(struct dev_stream *stream, uint32_t *count, bool is_pdl)
{
    launch_cfg cfg = gpu_cfg(stream, 1, 128);
    cfg.is_pdl = is_pdl;
    launch(cfg, empty, count);
}

void gpu_mma(struct dev_stream *stream, uint32_t block_n, uint32_t loop_n, uint32_t *sum)
{
    launch(gpu_cfg(stream, block_n, GPU_THREADS), multiply, loop_n, sum);
}
