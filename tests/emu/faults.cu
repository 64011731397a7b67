/* The planted faults. A kernel fills out[] so that element i of a block is i + 1; with is_faulty
 * one thing is wrong with it, at the line that a comment marks. Emulation only. */
#include "kernels/cuda/dev.h"

#include "base/base.h"
#include "kernels/cuda/host.h"
#include "kernels/emu/emu_knobs.h"
#include "tests/emu/faults.h"

#define THREADS FAULT_THREADS
#define BLOCKS  2u
#define OUT_N   (BLOCKS * THREADS)

/* Overruns. */
template <bool is_faulty> static __global__ void overrun_static(float *out)
{
    SHARED(float, array, [THREADS]);
    float *s = array;                  /* the bounds of an array type are checked elsewhere */
    s[threadIdx.x + is_faulty] = 0.0f; /* fault: overrun_static */
    __syncthreads();
    s[threadIdx.x] = (float)threadIdx.x;
    out[blockIdx.x * THREADS + threadIdx.x] = s[threadIdx.x] + 1.0f;
}

template <bool is_faulty> static __global__ void overrun_dynamic(float *out)
{
    DYN_SHARED(float, s);
    s[threadIdx.x + is_faulty] = 0.0f; /* fault: overrun_dynamic */
    __syncthreads();
    s[threadIdx.x] = (float)threadIdx.x;
    out[blockIdx.x * THREADS + threadIdx.x] = s[threadIdx.x] + 1.0f;
}

template <bool is_faulty> static __global__ void overrun_global(float *out)
{
    unsigned i = blockIdx.x * THREADS + threadIdx.x;
    unsigned to = is_faulty && i == OUT_N - 1 ? OUT_N : i;
    out[to] = (float)threadIdx.x + 1.0f; /* fault: overrun_global */
}

/* More than a block may have: what is declared and what the launch asks for, together. */
template <bool is_faulty> static __global__ void shared_beyond(float *out)
{
    __syncthreads(); /* fault: shared_beyond */
    SHARED(float, s, [THREADS]);
    s[threadIdx.x] = (float)threadIdx.x;
    out[blockIdx.x * THREADS + threadIdx.x] = s[threadIdx.x] + 1.0f;
}

/* Vectors. */
template <bool is_faulty> static __global__ void misaligned(float *out, const float *in)
{
    const float4 *v = reinterpret_cast<const float4 *>(in + (is_faulty && threadIdx.x == 5));
    float first = v->x; /* fault: misaligned */
    out[blockIdx.x * THREADS + threadIdx.x] = first - in[0] + (float)threadIdx.x + 1.0f;
}

template <bool is_faulty> static __global__ void misaligned_word(float *out, const float *in)
{
    uint4 v = ld16(LD_WEIGHT, in + (is_faulty && threadIdx.x == 5)); /* fault: misaligned_word */
    float first = __uint_as_float(v.x);
    out[blockIdx.x * THREADS + threadIdx.x] = first - in[0] + (float)threadIdx.x + 1.0f;
}

/* Values that are not there. */
template <bool is_faulty> static __global__ void unwritten(float *out)
{
    SHARED(float, s, [THREADS]);
    if (!is_faulty || threadIdx.x < 32) {
        s[threadIdx.x] = (float)threadIdx.x;
    }
    __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = s[threadIdx.x] + 1.0f; /* fault: unwritten */
}

/* The place had a value before, which is not the copy's. */
template <bool is_faulty> static __global__ void copy_early(float *out, const float *in)
{
    SHARED(float, s, [THREADS]);
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < THREADS / 4) {
        cp_async16(&s[4 * threadIdx.x], in + 4 * threadIdx.x, 16);
    }
    cp_async_commit();
    if (!is_faulty) {
        cp_async_wait<0>();
    }
    __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = s[threadIdx.x] + 1.0f; /* fault: copy_early */
    cp_async_wait<0>();
}

template <bool is_faulty> static __global__ void copy_unwaited(float *out, const float *in)
{
    SHARED(float, s, [4]);
    out[blockIdx.x * THREADS + threadIdx.x] = (float)threadIdx.x + 1.0f;
    if (threadIdx.x == 3) {
        cp_async16(s, in, 16); /* fault: copy_unwaited */
        cp_async_commit();
    }
    cp_async_wait<is_faulty>();
}

/* Meetings. */
template <bool is_faulty> static __global__ void barriers_apart(float *out)
{
    SHARED(float, s, [THREADS]);
    s[threadIdx.x] = (float)(threadIdx.x + 1);
    if (!is_faulty || threadIdx.x < 40) {
        __syncthreads();
    } else {
        __syncthreads(); /* fault: barriers_apart */
    }
    out[blockIdx.x * THREADS + THREADS - 1 - threadIdx.x] = s[THREADS - 1 - threadIdx.x];
}

template <bool is_faulty> static __global__ void left_before_barrier(float *out)
{
    out[blockIdx.x * THREADS + threadIdx.x] = (float)(threadIdx.x + 1);
    if (is_faulty && threadIdx.x >= 40) {
        return;
    }
    __syncthreads(); /* fault: left_before_barrier */
}

template <bool is_faulty> static __global__ void absent_lanes(float *out)
{
    float v = 0.0f;
    if (threadIdx.x % 32 < 16) {
        v = __shfl_xor_sync(is_faulty ? ~0u : 0xffffu, 0.0f, 1); /* fault: absent_lanes */
    }
    out[blockIdx.x * THREADS + threadIdx.x] = v + (float)(threadIdx.x + 1);
}

/* Of two units the first may not wait for the second. flags: tickets, then a flag. */
template <bool is_faulty> static __global__ void waits_for_later(float *out, unsigned *flags)
{
    if (threadIdx.x == 0) {
        unsigned unit = ticket_next(&flags[0], BLOCKS, 1);
        if (unit != is_faulty) {
            flag_wait(&flags[1], 1); /* fault: waits_for_later */
        } else {
            flag_signal(&flags[1]);
        }
    }
    out[blockIdx.x * THREADS + threadIdx.x] = (float)(threadIdx.x + 1);
}

/* Races within a block. */
template <bool is_faulty> static __global__ void missing_barrier(float *out)
{
    SHARED(float, s, [THREADS]);
    s[threadIdx.x] = 0.0f;
    __syncthreads();
    s[threadIdx.x] = (float)(threadIdx.x + 1);
    if (!is_faulty) {
        __syncthreads();
    }
    unsigned other = (threadIdx.x + 33) % THREADS;
    out[blockIdx.x * THREADS + other] = s[other]; /* fault: missing_barrier */
}

/* A shuffle is no barrier for memory. */
template <bool is_faulty> static __global__ void missing_syncwarp(float *out)
{
    SHARED(float, s, [THREADS]);
    s[threadIdx.x] = 0.0f;
    __syncthreads();
    s[threadIdx.x] = (float)(threadIdx.x + 1);
    float zero = __shfl_xor_sync(~0u, 0.0f, 1);
    if (!is_faulty) {
        __syncwarp();
    }
    out[blockIdx.x * THREADS + (threadIdx.x ^ 1)] =
        zero + s[threadIdx.x ^ 1]; /* fault: missing_syncwarp */
}

template <bool is_faulty> static __global__ void plain_update(float *out, unsigned *flags)
{
    if (is_faulty) {
        flags[0]++; /* fault: plain_update */
    } else {
        atomicAdd(&flags[0], 1u);
    }
    out[blockIdx.x * THREADS + threadIdx.x] = (float)(threadIdx.x + 1);
}

/* A copy is issued into a place that others still read. */
template <bool is_faulty> static __global__ void copy_over_readers(float *out, const float *in)
{
    SHARED(float, s, [THREADS]);
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    float v = s[THREADS - 1 - threadIdx.x];
    if (!is_faulty) {
        __syncthreads();
    }
    if (threadIdx.x < THREADS / 4) {
        cp_async16(&s[4 * threadIdx.x], in, 16); /* fault: copy_over_readers */
    }
    cp_async_commit();
    cp_async_wait<0>();
    out[blockIdx.x * THREADS + THREADS - 1 - threadIdx.x] = v + 1.0f;
}

/* Overlapping launches. */
static __global__ void produce(float *data, const float *in)
{
    float v = in[threadIdx.x]; /* brought by a copy, which no launch overlaps */
    pdl_wait();
    pdl_trigger();
    data[blockIdx.x * THREADS + threadIdx.x] = v;
}

template <bool is_faulty> static __global__ void early_read(float *out, const float *data)
{
    unsigned other = (threadIdx.x + 1) % THREADS;
    float v = 0.0f;
    if (is_faulty) {
        v = data[other]; /* fault: early_read */
    }
    pdl_wait();
    v = is_faulty ? v : data[other];
    out[blockIdx.x * THREADS + other] = v + 1.0f;
}

template <bool is_faulty> static __global__ void waits_twice(float *out)
{
    pdl_wait();
    out[blockIdx.x * THREADS + threadIdx.x] = (float)(threadIdx.x + 1);
    if (is_faulty && threadIdx.x == 9) {
        pdl_wait(); /* fault: waits_twice */
    }
}

template <bool is_faulty> static __global__ void triggers_early(float *out)
{
    if (is_faulty) {
        pdl_trigger(); /* fault: triggers_early */
    }
    pdl_wait();
    pdl_trigger();
    out[blockIdx.x * THREADS + threadIdx.x] = (float)(threadIdx.x + 1);
}

/* Between blocks: the first unit makes data, the second reads it. */
enum order_fault { ORDER_OK, ORDER_EARLY_SIGNAL, ORDER_MISSING_WAIT };

template <order_fault fault> DEV void unit_order(float *out, float *data, unsigned *flags)
{
    SHARED(unsigned, unit, [1]);
    if (threadIdx.x == 0) {
        unit[0] = ticket_next(&flags[0], BLOCKS, 1);
    }
    __syncthreads();
    unsigned other = (threadIdx.x + 1) % THREADS;
    if (unit[0] == 0) {
        out[threadIdx.x] = (float)(threadIdx.x + 1);
        data[threadIdx.x] = (float)threadIdx.x; /* fault: early_signal */
        if (fault != ORDER_EARLY_SIGNAL) {
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            flag_signal(&flags[1]);
        }
    } else if (unit[0] == 1) {
        if (threadIdx.x == 0 && fault != ORDER_MISSING_WAIT) {
            flag_wait(&flags[1], 1);
        }
        __syncthreads();
        out[THREADS + other] = data[other] + 1.0f; /* fault: missing_flag_wait */
    }
}

template <bool is_faulty>
static __global__ void early_signal(float *out, float *data, unsigned *flags)
{
    unit_order<is_faulty ? ORDER_EARLY_SIGNAL : ORDER_OK>(out, data, flags);
}

template <bool is_faulty>
static __global__ void missing_flag_wait(float *out, float *data, unsigned *flags)
{
    unit_order<is_faulty ? ORDER_MISSING_WAIT : ORDER_OK>(out, data, flags);
}

/* What every kernel gets: out and data [OUT_N], in [2 * THREADS] with in[i] = i, zeroed flags. */
static struct {
    dev_stream *stream;
    float *out, *data, *in, *host;
    unsigned *flags;
    launch_cfg cfg, overlap;
} rig;

static void *take(size_t bytes, bool is_pinned)
{
    void *p;
    struct err err;
    int rc = is_pinned ? dev_alloc_pinned(bytes, false, &p, &err) : dev_alloc(bytes, &p, &err);
    ASSERT_CMP(rc, ==, 0);
    return p;
}

static void rig_make(void)
{
    rig.stream = dev_stream_new();
    rig.out = static_cast<float *>(take(OUT_N * sizeof(float), false));
    rig.data = static_cast<float *>(take(OUT_N * sizeof(float), false));
    rig.in = static_cast<float *>(take(2 * THREADS * sizeof(float), false));
    rig.flags = static_cast<unsigned *>(take(4 * sizeof(unsigned), false));
    rig.host = static_cast<float *>(take(OUT_N * sizeof(float), true));
    rig.cfg = {dim3(BLOCKS), dim3(THREADS), THREADS * sizeof(float), false, rig.stream};
    rig.overlap = rig.cfg;
    rig.overlap.is_pdl = true;
}

static void rig_start(void)
{
    if (!rig.stream) {
        rig_make();
    }
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        rig.host[i] = (float)i;
    }
    dev_copy_in(rig.stream, rig.in, rig.host, 2 * THREADS * sizeof(float));
    dev_fill(rig.stream, rig.flags, 0, 4 * sizeof(unsigned));
    dev_fill(rig.stream, rig.data, 0, OUT_N * sizeof(float));
    dev_fill(rig.stream, rig.out, 0xff, OUT_N * sizeof(float));
}

static enum fault_out rig_look(void)
{
    enum fault_out out = FAULT_RIGHT;
    dev_copy_out(rig.stream, rig.host, rig.out, OUT_N * sizeof(float));
    if (dev_stream_sync(rig.stream) != 0) {
        return FAULT_WRONG;
    }
    for (unsigned i = 0; i < OUT_N; i++) {
        if (rig.host[i] != rig.host[i]) {
            return FAULT_NAN;
        }
        out = rig.host[i] == (float)(i % THREADS + 1) ? out : FAULT_WRONG;
    }
    return out;
}

/* Takes the kernel's name, so that the launch has it. */
#define RUN(kernel, cfg, ...)                                                                      \
    static enum fault_out run_##kernel(bool is_faulty)                                             \
    {                                                                                              \
        rig_start();                                                                               \
        if (is_faulty) {                                                                           \
            launch(cfg, kernel<true>, __VA_ARGS__);                                                \
        } else {                                                                                   \
            launch(cfg, kernel<false>, __VA_ARGS__);                                               \
        }                                                                                          \
        return rig_look();                                                                         \
    }

RUN(overrun_static, rig.cfg, rig.out)
RUN(overrun_dynamic, rig.cfg, rig.out)
RUN(overrun_global, rig.cfg, rig.out)
RUN(misaligned, rig.cfg, rig.out, rig.in)
RUN(misaligned_word, rig.cfg, rig.out, rig.in)
RUN(unwritten, rig.cfg, rig.out)
RUN(copy_early, rig.cfg, rig.out, rig.in)
RUN(copy_unwaited, rig.cfg, rig.out, rig.in)
RUN(barriers_apart, rig.cfg, rig.out)
RUN(left_before_barrier, rig.cfg, rig.out)
RUN(absent_lanes, rig.cfg, rig.out)
RUN(waits_for_later, rig.cfg, rig.out, rig.flags)
RUN(missing_barrier, rig.cfg, rig.out)
RUN(missing_syncwarp, rig.cfg, rig.out)
RUN(plain_update, rig.cfg, rig.out, rig.flags)
RUN(copy_over_readers, rig.cfg, rig.out, rig.in)
RUN(waits_twice, rig.overlap, rig.out)
RUN(triggers_early, rig.overlap, rig.out)
RUN(early_signal, rig.cfg, rig.out, rig.data, rig.flags)
RUN(missing_flag_wait, rig.cfg, rig.out, rig.data, rig.flags)

static enum fault_out run_shared_beyond(bool is_faulty)
{
    rig_start();
    launch_cfg cfg = rig.cfg;
    cfg.smem = emu_knobs.shared_per_block - (is_faulty ? 0 : THREADS * sizeof(float));
    if (is_faulty) {
        launch(cfg, shared_beyond<true>, rig.out);
    } else {
        launch(cfg, shared_beyond<false>, rig.out);
    }
    return rig_look();
}

static enum fault_out run_early_read(bool is_faulty)
{
    rig_start();
    launch(rig.overlap, produce, rig.data, rig.in);
    if (is_faulty) {
        launch(rig.overlap, early_read<true>, rig.out, rig.data);
    } else {
        launch(rig.overlap, early_read<false>, rig.out, rig.data);
    }
    return rig_look();
}

#define ROW(kernel, told_in, seen_in, says, place)                                                 \
    {                                                                                              \
#kernel, run_##kernel, told_in, seen_in, says, place                                       \
    }
#define RACE "ThreadSanitizer: data race"
#define NANS (FAULT_PLAIN | FAULT_ASAN)

const struct fault faults[] = {
    ROW(overrun_static, FAULT_ASAN, 0, "heap-buffer-overflow", "block (0,0,0) thread (63,0,0)"),
    ROW(overrun_dynamic, FAULT_ASAN, 0, "heap-buffer-overflow", "block (0,0,0) thread (63,0,0)"),
    ROW(overrun_global, FAULT_ASAN, 0, "heap-buffer-overflow", "block (1,0,0) thread (63,0,0)"),
    ROW(shared_beyond, FAULT_ALL, 0, "than a block may have", "block (0,0,0) thread (63,0,0)"),
    ROW(misaligned, FAULT_ASAN, 0, "misaligned address", "block (0,0,0) thread (5,0,0)"),
    ROW(misaligned_word, FAULT_ALL, 0, "not aligned", "block (0,0,0) thread (5,0,0)"),
    ROW(unwritten, FAULT_RACE, NANS, "that nobody wrote", "block (0,0,0) thread (63,0,0)"),
    ROW(copy_early, FAULT_RACE, NANS, "that nobody wrote", "block (0,0,0) thread (31,0,0)"),
    ROW(copy_unwaited, FAULT_ALL, 0, "without a wait", "block (0,0,0) thread (3,0,0)"),
    ROW(barriers_apart, FAULT_ALL, 0, "different barriers", "block (0,0,0) thread (40,0,0)"),
    ROW(left_before_barrier, FAULT_ALL, 0, "left the kernel before a barrier",
        "block (0,0,0) thread (40,0,0)"),
    ROW(absent_lanes, FAULT_ALL, 0, "left the kernel", "block (0,0,0) thread (0,0,0)"),
    ROW(waits_for_later, FAULT_ALL, 0, "would hang", "block (0,0,0) thread (0,0,0)"),
    ROW(missing_barrier, FAULT_RACE, 0, RACE, "block (0,0,0) thread"),
    ROW(missing_syncwarp, FAULT_RACE, 0, RACE, "block (0,0,0) thread"),
    ROW(plain_update, FAULT_RACE, 0, RACE, "block (0,0,0) thread"),
    ROW(copy_over_readers, FAULT_RACE, 0, RACE, "block (0,0,0) thread"),
    ROW(early_read, FAULT_RACE, 0, RACE, "block (0,0,0) thread (0,0,0)"),
    ROW(waits_twice, FAULT_ALL, 0, "pdl_wait twice", "block (0,0,0) thread (9,0,0)"),
    ROW(triggers_early, FAULT_ALL, 0, "pdl_trigger before", "block (0,0,0) thread (0,0,0)"),
    ROW(early_signal, FAULT_RACE, 0, RACE, "block (1,0,0) thread"),
    ROW(missing_flag_wait, FAULT_RACE, 0, RACE, "block (1,0,0) thread"),
    {NULL, NULL, 0, 0, NULL, NULL},
};
