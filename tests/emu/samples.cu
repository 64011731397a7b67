/* The sample kernels, small relatives of the backend's. Emulation only. */
#include "kernels/cuda/dev.h"

#include "base/base.h"
#include "kernels/cuda/host.h"
#include "tests/emu/samples.h"

#define SLICE      64u /* of k: two warps take half each, in two k16 steps */
#define SLICES     (SAMPLE_K / SLICE)
#define TILES      (SAMPLE_N / 16)
#define UNITS      (TILES * SLICES)
#define STRIDE     (SLICE + 8) /* of a tile's rows in shared memory: no bank conflict */
#define THREADS    64u
#define X_N        (SAMPLE_ROWS * SAMPLE_K)
#define WORD_N     (2 + TILES)
#define PART(s, n) ((s)*SAMPLE_N * SAMPLE_ROWS + (n)*SAMPLE_ROWS)

/* Rows of 8 pieces of 16 bytes into shared memory. */
template <class T> DEV void bring(T *to, const T *from, unsigned row_n)
{
    for (unsigned i = threadIdx.x; i < row_n * 8; i += THREADS) {
        cp_async16(to + i / 8 * STRIDE + i % 8 * 8, from + i / 8 * SAMPLE_K + i % 8 * 8, 16);
        ld_count(LD_WEIGHT, 16);
    }
    cp_async_commit();
}

/* A's fragment of one k16 step, from rows of n or, transposed, from rows of k. */
template <class T, bool is_trans> DEV void fragment(uint32_t a[4], const T *w, const T *turned)
{
    unsigned lane = threadIdx.x % 32;
    if (is_trans) {
        ldmatrix_x4_trans(a, turned + (lane / 16 * 8 + lane % 8) * 16 + lane / 8 % 2 * 8);
    } else {
        ldmatrix_x4(a, w + lane % 16 * STRIDE + lane / 16 * 8);
    }
}

/* d: this warp's half of the slice. */
template <class T, bool is_trans> DEV void multiply(float d[4], const T *w, const T *x, T *turned)
{
    unsigned lane = threadIdx.x % 32;
    unsigned k = threadIdx.x / 32 * 32;
    uint32_t b[4];
    ldmatrix_x4(b, x + lane % 8 * STRIDE + k + lane / 8 * 8);
    UNROLL
    for (unsigned step = 0; step < 2; step++) {
        uint32_t a[4];
        fragment<T, is_trans>(a, w + k + 16 * step, turned + (k + 16 * step) * 16);
        mma<T>(d, a, b + 2 * step);
    }
}

/* Where a lane's four results belong in a [16][SAMPLE_ROWS] tile. */
DEV unsigned place(unsigned i)
{
    unsigned lane = threadIdx.x % 32;
    return (lane / 4 + i / 2 * 8) * SAMPLE_ROWS + lane % 4 * 2 + i % 2;
}

template <class T, bool is_trans>
DEV void unit(float *part, const T *w, const T *x, unsigned tile, unsigned slice)
{
    SHARED(T, w_tile, [16 * STRIDE]);
    SHARED(T, x_tile, [SAMPLE_ROWS * STRIDE]);
    SHARED(T, turned, [SLICE * 16]);
    SHARED(float, half, [16 * SAMPLE_ROWS]);
    bring(w_tile, w + tile * 16 * SAMPLE_K + slice * SLICE, 16);
    bring(x_tile, x + slice * SLICE, SAMPLE_ROWS);
    cp_async_wait<1>();
    __syncthreads();
    for (unsigned i = threadIdx.x; is_trans && i < SLICE * 16; i += THREADS) {
        turned[i] = w_tile[i % 16 * STRIDE + i / 16];
    }
    cp_async_wait<0>();
    __syncthreads();
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    multiply<T, is_trans>(d, w_tile, x_tile, turned);
    for (unsigned i = 0; i < 4 && threadIdx.x >= 32; i++) {
        half[place(i)] = d[i];
    }
    __syncthreads();
    for (unsigned i = 0; i < 4 && threadIdx.x < 32; i++) {
        part[PART(slice, tile * 16) + place(i)] = d[i] + half[place(i)];
    }
    __syncthreads();
}

/* words: two counters of tickets, for blocks and units of even and odd index (a single block draws
 * from the first for all), then one per tile. part: [SLICES][SAMPLE_N][SAMPLE_ROWS]. */
template <class T, bool is_trans>
static __global__ void linear(float *out, const T *w, const T *x, float *part, unsigned *words)
{
    SHARED(unsigned, next, [2]);
    unsigned stride = gridDim.x > 1 ? 2 : 1;
    unsigned first = blockIdx.x % stride;
    pdl_wait();
    pdl_trigger();
    for (;;) {
        if (threadIdx.x == 0) {
            next[0] = ticket_next(&words[first], UNITS / stride, stride) * stride + first;
        }
        __syncthreads();
        unsigned i = next[0];
        if (i >= UNITS) {
            return;
        }
        unsigned tile = i / SLICES;
        unit<T, is_trans>(part, w, x, tile, i % SLICES);
        if (threadIdx.x == 0) {
            next[1] = flag_join(&words[2 + tile], SLICES);
        }
        __syncthreads();
        for (unsigned j = threadIdx.x; next[1] && j < 16 * SAMPLE_ROWS; j += THREADS) {
            float sum = 0.0f;
            for (unsigned s = 0; s < SLICES; s++) {
                sum += part[PART(s, tile * 16) + j];
            }
            out[j % SAMPLE_ROWS * SAMPLE_N + tile * 16 + j / SAMPLE_ROWS] = sum;
        }
        __syncthreads();
    }
}

static __global__ void rms(float *out, const float *x)
{
    SHARED(float, sums, [THREADS / 32]);
    for (unsigned row = blockIdx.x; row < SAMPLE_ROWS; row += gridDim.x) {
        float sum = 0.0f;
        for (unsigned k = threadIdx.x; k < SAMPLE_K; k += THREADS) {
            sum += x[row * SAMPLE_K + k] * x[row * SAMPLE_K + k];
        }
        for (int lanes = 16; lanes > 0; lanes /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        }
        if (threadIdx.x % 32 == 0) {
            sums[threadIdx.x / 32] = sum;
        }
        __syncthreads();
        float by = rsqrtf((sums[0] + sums[1]) / (float)SAMPLE_K + 1.0f);
        for (unsigned k = threadIdx.x; k < SAMPLE_K; k += THREADS) {
            out[row * SAMPLE_K + k] = x[row * SAMPLE_K + k] * by;
        }
        __syncthreads();
    }
}

static __global__ void bins(unsigned *out, const float *x)
{
    SHARED(unsigned, count, [2 * SAMPLE_BINS]);
    count[threadIdx.x] = 0;
    __syncthreads();
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < X_N; i += gridDim.x * THREADS) {
        unsigned bin = i / THREADS % SAMPLE_BINS; /* the same for the whole warp */
        unsigned negative = __ballot_sync(0xffffffffu, x[i] < 0.0f);
        atomicAdd(&count[i * 7 % SAMPLE_BINS], 1u);
        if (threadIdx.x % 32 == 0) {
            atomicAdd(&count[SAMPLE_BINS + bin], (unsigned)__popc(negative));
        }
    }
    __syncthreads();
    atomicAdd(&out[threadIdx.x], count[threadIdx.x]);
}

/* The rig: one block of device memory and one of pinned memory, big enough for each sample. */
#define RIG_BYTES ((size_t)1 << 18)

static struct {
    dev_stream *stream;
    char *dev, *host;
    size_t used;
} rig;

static void rig_start(void)
{
    if (!rig.stream) {
        struct err err;
        void *p;
        rig.stream = dev_stream_new();
        ASSERT_CMP(dev_alloc(RIG_BYTES, &p, &err), ==, 0);
        rig.dev = static_cast<char *>(p);
        ASSERT_CMP(dev_alloc_pinned(RIG_BYTES, false, &p, &err), ==, 0);
        rig.host = static_cast<char *>(p);
    }
    rig.used = 0;
    dev_fill(rig.stream, rig.dev, 0xff, RIG_BYTES);
}

/* Room on the device; its mirror in pinned memory is at the same offset. */
static void *rig_take(size_t bytes)
{
    void *p = rig.dev + rig.used;
    rig.used += (bytes + 255) / 256 * 256;
    ASSERT_CMP(rig.used, <=, RIG_BYTES);
    return p;
}

template <class T> static T *rig_mirror(T *p)
{
    return reinterpret_cast<T *>(rig.host + (reinterpret_cast<char *>(p) - rig.dev));
}

static void rig_send(void *p, size_t bytes)
{
    dev_copy_in(rig.stream, p, rig_mirror(static_cast<char *>(p)), bytes);
}

static void rig_end(void *to, const void *from, size_t bytes)
{
    dev_copy_out(rig.stream, to, from, bytes);
    ASSERT_CMP(dev_stream_sync(rig.stream), ==, 0);
}

template <class T, bool is_trans> static void run_linear(uint32_t grid, float *out)
{
    rig_start();
    T *w = static_cast<T *>(rig_take(SAMPLE_N * SAMPLE_K * sizeof(T)));
    T *x = static_cast<T *>(rig_take(X_N * sizeof(T)));
    float *part = static_cast<float *>(rig_take(SLICES * SAMPLE_N * SAMPLE_ROWS * sizeof(float)));
    float *y = static_cast<float *>(rig_take(SAMPLE_ROWS * SAMPLE_N * sizeof(float)));
    unsigned *words = static_cast<unsigned *>(rig_take(WORD_N * sizeof(unsigned)));
    for (uint32_t i = 0; i < SAMPLE_N * SAMPLE_K; i++) {
        rig_mirror(w)[i] = from_f32<T>(sample_weight(i / SAMPLE_K, i % SAMPLE_K));
    }
    for (uint32_t i = 0; i < X_N; i++) {
        rig_mirror(x)[i] = from_f32<T>(sample_x(i / SAMPLE_K, i % SAMPLE_K));
    }
    rig_send(w, SAMPLE_N * SAMPLE_K * sizeof(T));
    rig_send(x, X_N * sizeof(T));
    dev_fill(rig.stream, words, 0, WORD_N * sizeof(unsigned));
    launch_cfg cfg = {dim3(grid), dim3(THREADS), 0, true, rig.stream};
    launch(cfg, (linear<T, is_trans>), y, static_cast<const T *>(w), static_cast<const T *>(x),
           part, words);
    rig_end(out, y, SAMPLE_ROWS * SAMPLE_N * sizeof(float));
}

void sample_linear(enum dtype held, bool is_trans, uint32_t grid, float *out)
{
    if (held == DTYPE_BF16) {
        is_trans ? run_linear<bf16, true>(grid, out) : run_linear<bf16, false>(grid, out);
    } else {
        is_trans ? run_linear<f16, true>(grid, out) : run_linear<f16, false>(grid, out);
    }
}

static float *take_x(void)
{
    rig_start();
    float *x = static_cast<float *>(rig_take(X_N * sizeof(float)));
    for (uint32_t i = 0; i < X_N; i++) {
        rig_mirror(x)[i] = sample_x(i / SAMPLE_K, i % SAMPLE_K);
    }
    rig_send(x, X_N * sizeof(float));
    return x;
}

void sample_rms(uint32_t grid, float *out)
{
    const float *x = take_x();
    float *y = static_cast<float *>(rig_take(X_N * sizeof(float)));
    launch_cfg cfg = {dim3(grid), dim3(THREADS), 0, false, rig.stream};
    launch(cfg, rms, y, x);
    rig_end(out, y, X_N * sizeof(float));
}

void sample_bins(uint32_t grid, uint32_t *out)
{
    const float *x = take_x();
    unsigned *y = static_cast<unsigned *>(rig_take(2 * SAMPLE_BINS * sizeof(unsigned)));
    dev_fill(rig.stream, y, 0, 2 * SAMPLE_BINS * sizeof(unsigned));
    launch_cfg cfg = {dim3(grid), dim3(THREADS), 0, false, rig.stream};
    launch(cfg, bins, y, x);
    rig_end(out, y, 2 * SAMPLE_BINS * sizeof(unsigned));
}
