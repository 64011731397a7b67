/* gpu_limits [--quick]: what the GPU can do at most, measured now: the denominators of every figure
 * of the CUDA backend.
 *
 * Memory rates, the linear's reads of weights without its arithmetic, copies from the host, the
 * cost of a launch, the peak of the tensor-core instruction. Every line is the median of some
 * samples with the least and the most of them. Before a line is printed, what its kernels left is
 * held to what they should have read or written; a difference fails the program. Time is the host's
 * clock from the first call until the stream is empty: samples of memory and arithmetic last
 * milliseconds, those of copies from the host and of launches mean to hold the wait. On the
 * emulated device everything is tiny.
 *
 * Exit status: 0, 1 a check or the device failed, 2 usage, 3 no device. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cuda/cuda_int.h"
#include "kernels/cuda/host_text.h"
#include "kernels/cuda/linear_cut.h"
#include "perf/gpu_limits.h"
#include "perf/gpu_measure.h"

#define MIB           ((size_t)1 << 20)
#define BUFFER_MOST   ((size_t)4096 << 20)
#define BUFFER_LEAST  ((size_t)512 << 20) /* several times what an L2 holds */
#define BUFFER_TINY   ((size_t)4 << 20)   /* on the emulated device */
#define LAUNCHES      256
#define LAUNCHES_TINY 16
#define NAME_BYTES    96

/* Memory. */

static void read_work(struct gpu_limits *l, const void *arg)
{
    (void)arg;
    gpu_read(l->stream, l->block_n, l->from, l->bytes, &l->counts->sum);
}

static void copy_work(struct gpu_limits *l, const void *arg)
{
    (void)arg;
    gpu_copy(l->stream, l->block_n, l->to, l->from, l->bytes);
}

static void driver_copy_work(struct gpu_limits *l, const void *arg)
{
    (void)arg;
    dev_copy(l->stream, l->to, l->from, l->bytes);
}

static void copy_measure(struct gpu_limits *l, const char *name, gpu_work_fn fn)
{
    dev_fill(l->stream, l->to, 0, l->bytes);
    struct gpu_stat s = gpu_measure(l, fn, NULL);
    gpu_check_words(l, name, l->to, l->bytes);
    gpu_print(name, gpu_stat_rate(s, (double)l->bytes * 2e-9), "GB/s", l->read_gbs, "read");
}

static uint32_t words_sum(size_t word_n)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < word_n; i++) {
        sum += gpu_word(i);
    }
    return sum;
}

static void memory_measure(struct gpu_limits *l)
{
    gpu_fill(l->stream, l->block_n, (uint32_t *)(void *)l->from, l->bytes);
    gpu_check_words(l, "fill", l->from, l->bytes);
    gpu_counts_clear(l);
    struct gpu_stat s = gpu_stat_rate(gpu_measure(l, read_work, NULL), (double)l->bytes * 1e-9);
    gpu_check_sum(l, "read", words_sum(l->bytes / 4), gpu_run_n(l));
    l->read_gbs = s.median;
    gpu_print("read", s, "GB/s", 0, NULL);
    copy_measure(l, "copy, kernel (read + write)", copy_work);
    copy_measure(l, "copy, driver (read + write)", driver_copy_work);
}

/* The linear's reads. */

struct weights_work {
    struct gpu_weights job;
    uint32_t block_n;
    struct dev_graph *graph; /* one launch a matrix; NULL: one for all */
};

static void weights_work(struct gpu_limits *l, const void *arg)
{
    const struct weights_work *w = arg;
    if (w->graph) {
        dev_graph_launch(l->stream, w->graph);
    } else {
        gpu_weights_read(l->stream, w->block_n, &w->job, false);
    }
}

static uint32_t piece_sum(size_t piece)
{
    return gpu_word(4 * piece) + gpu_word(4 * piece + 1) + gpu_word(4 * piece + 2) +
           gpu_word(4 * piece + 3);
}

/* What the kernel's sum must be, from the bytes' side: who has to read each piece of 16 bytes. */
static uint32_t weights_expected(const struct gpu_weights *job)
{
    uint32_t step_n = job->k / LINEAR_STEP;
    uint32_t part_n = LINEAR_PARTS * linear_slice_n(job->k);
    uint32_t *part = mem_zalloc_n(step_n, sizeof *part); /* of each 32 elements of K */
    uint32_t sum = 0;
    size_t q = 0;
    for (uint32_t i = 0; i < step_n; i++) {
        uint32_t k = i * LINEAR_STEP;
        uint32_t slice_k = linear_slice_k(job->k);
        part[i] = k / slice_k * LINEAR_PARTS + k % slice_k / linear_part_k(job->k);
    }
    for (uint32_t row = 0; row < job->copy_n * job->n && !job->is_tiled; row++) {
        for (uint32_t i = 0; i < 4 * step_n; i++, q++) {
            uint32_t lane = row % 8 * 4 + i % 4;
            sum += piece_sum(q) * gpu_factor(row / 16, part_n, part[i / 4], lane);
        }
    }
    for (uint32_t unit = 0; unit < job->copy_n * job->n / 16 && job->is_tiled; unit++) {
        for (uint32_t i = 0; i < 64 * step_n; i++, q++) {
            sum += piece_sum(q) * gpu_factor(unit, part_n, part[i / 64], i % 32);
        }
    }
    mem_free(part);
    return sum;
}

static struct dev_graph *graph_end(struct gpu_limits *l, uint32_t launch_n)
{
    struct dev_graph *graph;
    struct err err;
    if (dev_graph_end(l->stream, &graph, &err) != 0) {
        gpu_fail("%s", err.text);
    }
    if (dev_graph_launch_n(graph) != launch_n) {
        gpu_fail("a graph has %u launches, not %u", dev_graph_launch_n(graph), launch_n);
    }
    return graph;
}

static void weights_capture(struct gpu_limits *l, struct weights_work *w)
{
    struct gpu_weights one = w->job;
    one.copy_n = 1;
    dev_graph_begin(l->stream);
    for (uint32_t c = 0; c < w->job.copy_n; c++) {
        one.w = (const char *)w->job.w + (size_t)c * one.n * one.k * 2;
        one.copy_first = c;
        gpu_weights_read(l->stream, w->block_n, &one, true);
    }
    w->graph = graph_end(l, w->job.copy_n);
}

static void weights_measure(struct gpu_limits *l, struct weights_work *w, uint32_t expected,
                            const char *how)
{
    char name[NAME_BYTES];
    const struct gpu_weights *job = &w->job;
    snprintf(name, sizeof name, "weights %u x %u, %s, %s", job->n, job->k,
             job->is_tiled ? "tiles" : "rows", how);
    gpu_counts_clear(l);
    struct gpu_stat s = gpu_measure(l, weights_work, w);
    gpu_check_sum(l, name, expected, gpu_run_n(l));
    double bytes = (double)job->copy_n * job->n * job->k * 2;
    gpu_print(name, gpu_stat_rate(s, bytes * 1e-9), "GB/s", l->read_gbs, "read");
}

static void weights_shape(struct gpu_limits *l, uint32_t n, uint32_t k, bool is_tiled)
{
    struct weights_work w = {.job = {.w = l->from, .n = n, .k = k, .is_tiled = is_tiled}};
    w.job.copy_n = (uint32_t)(l->bytes / ((size_t)n * k * 2));
    w.job.sum = &l->counts->sum;
    w.block_n = MAX(l->info.sm_n * LINEAR_BLOCKS, linear_slice_n(k));
    uint32_t expected = weights_expected(&w.job);
    weights_measure(l, &w, expected, "as the linear");
    weights_capture(l, &w);
    weights_measure(l, &w, expected, "one launch a matrix");
    dev_graph_free(w.graph);
    w.graph = NULL;
    w.job.is_deep = true;
    weights_measure(l, &w, expected, "8 steps under way");
    w.job.is_deep = false;
    w.block_n *= 4;
    weights_measure(l, &w, expected, "8 blocks an SM");
}

/* The matrices of an 8B layer: qkv, o, gate and up, down. */
static void weights_all(struct gpu_limits *l)
{
    static const uint32_t shapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
    for (uint32_t i = 0; i < ARRAY_N(shapes); i++) {
        uint32_t n = l->info.is_emulated ? shapes[i][0] / 128 : shapes[i][0];
        weights_shape(l, n, shapes[i][1], false);
        weights_shape(l, n, shapes[i][1], true);
    }
}

/* From the host. */

struct bring_work {
    const char *from; /* pinned, or not */
    size_t bytes;
    struct kern_dev *dev; /* the backend's stages; NULL: one copy */
};

static void bring_work(struct gpu_limits *l, const void *arg)
{
    const struct bring_work *w = arg;
    if (!w->dev) {
        dev_copy_in(l->stream, l->to, w->from, w->bytes);
        return;
    }
    uint64_t ticket = 0;
    for (size_t done = 0; done < w->bytes;) {
        done += cuda_bring(w->dev, l->to + done, w->from + done, w->bytes - done, &ticket);
    }
    while (!cuda_is_brought(w->dev, ticket)) {
    }
}

static double bring_measure(struct gpu_limits *l, const struct bring_work *w, double whole)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "host to device, %s, %g MiB", w->dev ? "pageable" : "pinned",
             (double)w->bytes / MIB);
    dev_fill(l->stream, l->to, 0, w->bytes);
    struct gpu_stat s = gpu_stat_rate(gpu_measure(l, bring_work, w), (double)w->bytes * 1e-9);
    gpu_check_words(l, name, l->to, w->bytes);
    gpu_print(name, s, "GB/s", whole, "pinned");
    return s.median;
}

static void words_fill(void *to, size_t bytes)
{
    uint32_t *words = to;
    for (size_t i = 0; i < bytes / 4; i++) {
        words[i] = gpu_word(i);
    }
}

static void host_measure(struct gpu_limits *l)
{
    static const size_t sizes[] = {MIB, 4 * MIB, 16 * MIB, 64 * MIB};
    static struct kern_dev dev; /* of which copies.c uses no more than the copies */
    size_t by = l->info.is_emulated ? 16 : 1;
    size_t most = 64 * MIB / by;
    void *pinned;
    struct err err;
    if (dev_alloc_pinned(most, false, &pinned, &err) != 0 || cuda_copies_open(&dev, &err) != 0) {
        gpu_fail("%s", err.text);
    }
    char *pageable = mem_alloc(most);
    words_fill(pinned, most);
    words_fill(pageable, most);
    for (uint32_t i = 0; i < ARRAY_N(sizes); i++) {
        struct bring_work w = {pinned, sizes[i] / by, NULL};
        double whole = bring_measure(l, &w, 0);
        w = (struct bring_work){pageable, sizes[i] / by, &dev};
        bring_measure(l, &w, whole);
    }
    cuda_copies_close(&dev);
    dev_free_pinned(pinned);
    mem_free(pageable);
}

/* Launches. */

static uint32_t launches(const struct gpu_limits *l)
{
    return l->info.is_emulated ? LAUNCHES_TINY : LAUNCHES;
}

struct launch_work {
    uint32_t n;
    struct dev_graph *graph; /* of n launches; NULL: plain ones */
};

static void launch_work(struct gpu_limits *l, const void *arg)
{
    const struct launch_work *w = arg;
    if (w->graph) {
        dev_graph_launch(l->stream, w->graph);
        return;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        gpu_empty(l->stream, NULL, false);
    }
}

static struct dev_graph *launch_capture(struct gpu_limits *l, uint32_t n, uint32_t *count,
                                        bool is_pdl)
{
    dev_graph_begin(l->stream);
    for (uint32_t i = 0; i < n; i++) {
        gpu_empty(l->stream, count, is_pdl);
    }
    return graph_end(l, n);
}

/* The same graph, counting: every kernel of it runs. */
static void launch_check(struct gpu_limits *l, const char *name, bool is_pdl)
{
    struct dev_graph *graph = launch_capture(l, launches(l), &l->counts->run_n, is_pdl);
    gpu_counts_clear(l);
    dev_graph_launch(l->stream, graph);
    uint32_t n = gpu_counts_read(l).run_n;
    dev_graph_free(graph);
    if (n != launches(l)) {
        gpu_fail("%s: %u kernels ran, not %u", name, n, launches(l));
    }
}

/* What one more launch costs: what many of them take beyond one, sample by sample. */
static void gap_measure(struct gpu_limits *l, const char *name, const struct launch_work *many,
                        const struct launch_work *one)
{
    double v[SAMPLES];
    for (uint32_t i = 0; i < WARM_UP; i++) {
        gpu_seconds(l, launch_work, many);
        gpu_seconds(l, launch_work, one);
    }
    for (uint32_t i = 0; i < l->sample_n; i++) {
        double whole = gpu_seconds(l, launch_work, many);
        v[i] = (whole - gpu_seconds(l, launch_work, one)) / (many->n - 1);
    }
    gpu_print(name, gpu_stat_scaled(gpu_stat_of(v, l->sample_n), 1e6), "us a kernel", 0, NULL);
}

/* What the calls alone take of the host's thread, per unit of `n`. */
static void call_measure(struct gpu_limits *l, const char *name, const struct launch_work *w,
                         uint32_t n, const char *unit)
{
    double v[SAMPLES];
    for (uint32_t i = 0; i < l->sample_n; i++) {
        int64_t start = clock_now_ns();
        launch_work(l, w);
        v[i] = (double)(clock_now_ns() - start) * 1e-3 / n;
        gpu_wait(l);
    }
    gpu_print(name, gpu_stat_of(v, l->sample_n), unit, 0, NULL);
}

static void graph_measure(struct gpu_limits *l, const char *how, bool is_pdl)
{
    char name[NAME_BYTES];
    struct launch_work many = {launches(l), launch_capture(l, launches(l), NULL, is_pdl)};
    struct launch_work one = {1, launch_capture(l, 1, NULL, is_pdl)};
    snprintf(name, sizeof name, "launch gap, graph %s", how);
    launch_check(l, name, is_pdl);
    gap_measure(l, name, &many, &one);
    snprintf(name, sizeof name, "graph of %u %s, the host's call", many.n, how);
    call_measure(l, name, &many, 1, "us");
    snprintf(name, sizeof name, "graph of 1 %s, until it has run", how);
    gpu_print(name, gpu_stat_scaled(gpu_measure(l, launch_work, &one), 1e6), "us", 0, NULL);
    dev_graph_free(many.graph);
    dev_graph_free(one.graph);
}

static void launch_measure(struct gpu_limits *l)
{
    struct launch_work many = {launches(l), NULL};
    struct launch_work one = {1, NULL};
    graph_measure(l, "without PDL", false);
    if (l->info.major >= 9) {
        graph_measure(l, "with PDL", true);
    } else {
        printf("launch gap, graph with PDL: not available: compute capability %u.%u\n",
               l->info.major, l->info.minor);
    }
    gap_measure(l, "launch gap, stream", &many, &one);
    call_measure(l, "stream launch, the host's call", &many, many.n, "us a kernel");
}

/* Arithmetic. */

struct mma_work {
    uint32_t block_n;
    uint32_t loop_n;
};

static void mma_work(struct gpu_limits *l, const void *arg)
{
    const struct mma_work *w = arg;
    gpu_mma(l->stream, w->block_n, w->loop_n, &l->counts->sum);
}

/* Of one warp: loop_n times the products of every A with every B. */
static uint32_t mma_expected(uint32_t loop_n)
{
    uint32_t total = 0;
    for (uint32_t b = 0; b < GPU_MMA_B; b++) {
        for (uint32_t i = 0; i < 16 * 8; i++) {
            int sum = 0;
            for (uint32_t a = 0; a < GPU_MMA_A; a++) {
                for (uint32_t k = 0; k < 16; k++) {
                    sum += gpu_mma_value(a, i / 8, k) * gpu_mma_value(GPU_MMA_A + b, i % 8, k);
                }
            }
            total += (uint32_t)(sum * (int)loop_n) * gpu_mma_factor(b, i / 8, i % 8);
        }
    }
    return total;
}

static void mma_measure(struct gpu_limits *l)
{
    struct mma_work w = {l->info.sm_n * 2, l->info.is_emulated ? 2 : GPU_MMA_LOOPS};
    const char *name = "GEMM: the instruction's peak (mma m16n8k16 bf16, operands in registers)";
    uint32_t warp_n = w.block_n * GPU_MMA_WARPS;
    gpu_counts_clear(l);
    struct gpu_stat s = gpu_measure(l, mma_work, &w);
    gpu_check_sum(l, name, mma_expected(w.loop_n) * warp_n, gpu_run_n(l));
    double flop = 2.0 * 16 * 8 * 16 * GPU_MMA_A * GPU_MMA_B * w.loop_n * warp_n;
    gpu_print(name, gpu_stat_rate(s, flop * 1e-12), "TFLOP/s", 0, NULL);
}

/* Device memory: as much as pays, for two buffers and little else. */
static void limits_open(struct gpu_limits *l)
{
    struct err err;
    void *p[3] = {0};
    l->bytes = MIN(l->info.free_bytes / 4, BUFFER_MOST) / (64 * MIB) * (64 * MIB);
    l->bytes = l->info.is_emulated ? BUFFER_TINY : l->bytes;
    if (!l->info.is_emulated && l->bytes < BUFFER_LEAST) {
        gpu_fail("%zu bytes of GPU memory are free, %zu are needed", l->info.free_bytes,
                 4 * BUFFER_LEAST);
    }
    if (dev_alloc(l->bytes, &p[0], &err) != 0 || dev_alloc(l->bytes, &p[1], &err) != 0 ||
        dev_alloc(sizeof *l->counts, &p[2], &err) != 0) {
        gpu_fail("%s", err.text);
    }
    l->from = p[0];
    l->to = p[1];
    l->counts = p[2];
    l->stream = dev_stream_new();
    l->block_n = l->info.sm_n * 8;
}

static void limits_close(struct gpu_limits *l)
{
    dev_stream_free(l->stream);
    dev_free(l->from);
    dev_free(l->to);
    dev_free(l->counts);
}

int main(int argc, char **argv)
{
    struct gpu_limits l = {.sample_n = SAMPLES};
    char text[DEV_TEXT_BYTES];
    uint32_t n = 0;
    struct err err;
    if (argc > 2 || (argc == 2 && strcmp(argv[1], "--quick") != 0)) {
        fprintf(stderr, "usage: gpu_limits [--quick]\n");
        return 2;
    }
    if (dev_count(&n, &err) != 0 || dev_describe(0, &l.info, &err) != 0) {
        fprintf(stderr, "gpu_limits: %s\n", err.text);
        return 3;
    }
    l.sample_n = argc == 2 ? SAMPLES_QUICK : SAMPLES;
    dev_info_text(&l.info, text);
    printf("device: %s\n", text);
    printf("command: gpu_limits%s: medians of %u samples (least..most); GB = 10^9 bytes\n",
           argc == 2 ? " --quick" : "", l.sample_n);
    if (l.info.is_emulated) {
        printf("emulated: figures mean nothing\n");
    }
    limits_open(&l);
    memory_measure(&l);
    weights_all(&l);
    host_measure(&l);
    launch_measure(&l);
    mma_measure(&l);
    limits_close(&l);
    return 0;
}
