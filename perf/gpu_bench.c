/* gpu_bench [--shape NAME] [--parts LIST] [--seconds N]: what the CUDA backend does on this GPU,
 * engine's walk and kernels in process, beside what the GPU can do at most and beside itself
 * without adapters.
 *
 * Ways that are compared take turns in one process; a line is the median of the ratios of some
 * pairs, with the least and the most of them. A bar beside a line says what is wanted; nothing
 * asserts a time. Contents are checked: a sequence's token and its probability are the same alone,
 * in a crowd, and beside adapters.
 *
 *   --shape    8b (default), 3b, 0.5b, tiny (the only one on the emulated device)
 *   --parts    comma-separated: start, decode, mixed, rows, prefill, idle, load. Default: all.
 *   --seconds  for the measurements together (default 240); a part that has had its share takes
 *              fewer pairs and says so
 *
 * Exit status: 0, 1 a check or the device failed, 2 usage, 3 no device or too little memory. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/host_text.h"
#include "perf/gpu_rig.h"

#define PAIRS       31 /* at most */
#define PAIRS_LEAST 9  /* unless time is short */
#define STEPS       16 /* of one sample */
#define GAPS        512
#define BATCH       32  /* rows of the mixed step */
#define ROWS        128 /* of the large step, and sequences there are */
#define PROMPTS     8   /* sequences of the prefill */

struct bench {
    struct dev_info info;
    struct gpu_rig rig;
    bool is_tiny;
    uint32_t context;
    uint32_t prompt_n; /* rows of each prompt */
    double part_s;     /* time for one part */
    int64_t part_end_ns;
    double copy_gbs; /* 0: not measured */
};

static const struct tables_shape shapes[] = {
    {"8b", 32, 4096, 14336, 32, 8, 128, 128256},
    {"3b", 28, 3072, 8192, 24, 8, 128, 128256},
    {"0.5b", 24, 896, 4864, 14, 2, 64, 151936},
    {"tiny", 2, 64, 128, 4, 2, 16, 256},
};

static const struct rig_sizes sizes_full = {2048, ROWS, 512};
static const struct rig_sizes sizes_tiny = {128, ROWS, 64};

static void say_bar(const struct bench *b, const char *what, double value, double bar, bool is_most)
{
    bool is_met = is_most ? value <= bar : value >= bar;
    printf("    %s %.3f: %s\n", what, bar, b->is_tiny ? "not judged" : is_met ? "met" : "missed");
    fflush(stdout);
}

static uint32_t steps_of(const struct bench *b)
{
    return b->is_tiny ? 1 : STEPS;
}

/* Another pair is due. */
static bool pairs_go_on(const struct bench *b, uint32_t n)
{
    if (b->is_tiny) {
        return n < 2;
    }
    return n < 3 || (n < PAIRS && clock_now_ns() < b->part_end_ns);
}

static void pairs_told(const struct bench *b, uint32_t n)
{
    if (n < PAIRS_LEAST && !b->is_tiny) {
        printf("    cut short: %u pairs\n", n);
    }
}

/* Runs two steps in turn; *out_a, *out_b: seconds a step; the result: b over a. */
static struct gpu_stat compare(struct bench *b, const struct rig_step *a, const struct rig_step *c,
                               struct gpu_stat *out_a, struct gpu_stat *out_c)
{
    double first[PAIRS];
    double second[PAIRS];
    double ratio[PAIRS];
    uint32_t n = 0;
    rig_seconds(&b->rig, a, 1, NULL);
    rig_seconds(&b->rig, c, 1, NULL);
    for (; pairs_go_on(b, n); n++) {
        first[n] = rig_seconds(&b->rig, a, steps_of(b), NULL);
        second[n] = rig_seconds(&b->rig, c, steps_of(b), NULL);
        ratio[n] = second[n] / first[n];
    }
    pairs_told(b, n);
    *out_a = gpu_stat_of(first, n);
    *out_c = gpu_stat_of(second, n);
    return gpu_stat_of(ratio, n);
}

static void print_ratio(const char *name, struct gpu_stat ratio)
{
    printf("%s: %.4f (%.4f..%.4f)\n", name, ratio.median, ratio.min, ratio.max);
}

/* Bytes that a step must read. */
static double step_bytes(const struct bench *b, uint32_t row_n, uint32_t only)
{
    struct tables_step step = {row_n, b->context, true};
    struct tables_bytes bytes;
    double sum = 0;
    tables_formula(b->rig.shape, &step, &bytes);
    for (uint32_t op = 0; op < OP_N; op++) {
        sum += (double)bytes.bytes[op][only];
    }
    return sum;
}

static double copy_rate(struct bench *b)
{
    struct err err = {0};
    struct dev_stream *stream = dev_stream_new();
    size_t bytes = MIN((size_t)1 << 30, b->info.free_bytes / 8);
    double v[PAIRS_LEAST];
    void *from;
    void *to;
    if (dev_alloc(bytes, &from, &err) || dev_alloc(bytes, &to, &err)) {
        gpu_fail("%s", err.text);
    }
    dev_fill(stream, from, 1, bytes);
    for (uint32_t i = 0; i < PAIRS_LEAST; i++) {
        dev_stream_sync(stream);
        int64_t start = clock_now_ns();
        for (uint32_t k = 0; k < 4; k++) {
            dev_copy(stream, to, from, bytes);
        }
        dev_stream_sync(stream);
        v[i] = 8 * (double)bytes / (double)(clock_now_ns() - start);
    }
    dev_free(from);
    dev_free(to);
    dev_stream_free(stream);
    struct gpu_stat rate = gpu_stat_of(v, PAIRS_LEAST);
    gpu_print("copy rate (read + write)", rate, "GB/s", 0, NULL);
    return rate.median;
}

/* The sequence's result, and the same in a crowd of others and beside adapters. */
static void check_contents(struct bench *b)
{
    const struct rig_step alone = {.seq_n = 1, .context = b->context};
    const struct rig_step crowd = {.seq_n = BATCH, .context = b->context};
    const struct rig_step mixed = {.seq_n = BATCH, .context = b->context, .mix = RIG_BUT_FIRST};
    const struct rig_step *steps[] = {&alone, &crowd, &mixed};
    struct batch_token seen[ARRAY_N(steps)];
    for (uint32_t i = 0; i < ARRAY_N(steps); i++) {
        rig_seconds(&b->rig, steps[i], 1, NULL);
        seen[i] = b->rig.tokens[0];
        if (seen[i].token != seen[0].token || seen[i].logprob != seen[0].logprob) {
            gpu_fail("a sequence's token is %u (%.9g) alone and %u (%.9g) %s", seen[0].token,
                     (double)seen[0].logprob, seen[i].token, (double)seen[i].logprob,
                     i == 1 ? "in a crowd" : "beside adapters");
        }
    }
    printf("contents: a sequence alone, of %u and beside %u adapters: the same\n", BATCH,
           RIG_ADAPTERS);
}

static void part_start(struct bench *b)
{
    printf("graphs: captured in %.2f s, %.1f MB of device memory\n", b->rig.capture_s,
           (double)b->rig.capture_bytes * 1e-6);
    printf("prompts are multiplied by %s\n", kern_cuda.prompt_form(b->rig.model.dev));
}

static void part_decode(struct bench *b)
{
    const struct rig_step step = {.seq_n = 1, .context = b->context};
    double v[PAIRS];
    uint32_t n = 0;
    double bytes = step_bytes(b, 1, BYTES_WEIGHT) + step_bytes(b, 1, BYTES_KV);
    rig_seconds(&b->rig, &step, 1, NULL);
    for (; pairs_go_on(b, n); n++) {
        v[n] = rig_seconds(&b->rig, &step, steps_of(b), NULL);
    }
    pairs_told(b, n);
    struct gpu_stat s = gpu_stat_of(v, n);
    gpu_print("decode, 1 row", gpu_stat_scaled(s, 1e3), "ms", 0, NULL);
    gpu_print("decode, 1 row", gpu_stat_rate(s, bytes * 1e-9), "GB/s", b->copy_gbs,
              "the copy rate");
    say_bar(b, "bar: of the copy rate at least", bytes * 1e-9 / s.median / b->copy_gbs, 0.85,
            false);
}

static void part_mixed(struct bench *b)
{
    const struct rig_step base = {.seq_n = BATCH, .context = b->context};
    const struct rig_step mixed = {.seq_n = BATCH, .context = b->context, .mix = RIG_DISTINCT};
    struct gpu_stat base_s;
    struct gpu_stat mixed_s;
    double floor = step_bytes(b, BATCH, BYTES_ADAPTER) /
                   (step_bytes(b, BATCH, BYTES_WEIGHT) + step_bytes(b, BATCH, BYTES_KV));
    struct gpu_stat ratio = compare(b, &base, &mixed, &base_s, &mixed_s);
    gpu_print("decode, 32 rows, base", gpu_stat_scaled(base_s, 1e3), "ms", 0, NULL);
    gpu_print("decode, 32 rows, 8 distinct adapters", gpu_stat_scaled(mixed_s, 1e3), "ms", 0, NULL);
    print_ratio("decode, 32 rows, 8 distinct adapters / base", ratio);
    printf("    floor by bytes: %.4f; launches of a step: %u base, %u mixed\n", 1 + floor,
           rig_launches(&b->rig, BATCH, false), rig_launches(&b->rig, BATCH, true));
    say_bar(b, "bar: at most", ratio.median, 1.05 + floor, true);
}

static void part_rows(struct bench *b)
{
    const struct rig_step few = {.seq_n = BATCH, .context = b->context};
    const struct rig_step many = {.seq_n = ROWS, .context = b->context};
    struct gpu_stat few_s;
    struct gpu_stat many_s;
    struct gpu_stat ratio = compare(b, &few, &many, &few_s, &many_s);
    gpu_print("decode, 128 rows, base", gpu_stat_scaled(many_s, 1e3), "ms", 0, NULL);
    print_ratio("decode, 128 rows / 32 rows", ratio);
    say_bar(b, "bar: at most", ratio.median, 2, true);
}

static void part_prefill(struct bench *b)
{
    static const struct {
        enum rig_mix mix;
        const char *name;
    } ways[] = {{RIG_DISTINCT, "8 distinct adapters"}, {RIG_ONE, "one adapter for all"}};
    const struct rig_step base = {.seq_n = PROMPTS, .prompt_n = b->prompt_n};
    for (uint32_t i = 0; i < ARRAY_N(ways); i++) {
        struct rig_step step = base;
        struct gpu_stat base_s;
        struct gpu_stat step_s;
        char name[96];
        step.mix = ways[i].mix;
        b->part_end_ns = clock_now_ns() + (int64_t)(b->part_s / 2 * 1e9);
        struct gpu_stat ratio = compare(b, &step, &base, &step_s, &base_s);
        if (i == 0) {
            gpu_print("prefill, base", gpu_stat_rate(base_s, PROMPTS * b->prompt_n), "rows/s", 0,
                      NULL);
        }
        snprintf(name, sizeof name, "prefill, %s / base, rows/s", ways[i].name);
        print_ratio(name, ratio);
        say_bar(b, "bar: at least", ratio.median, 0.95, false);
    }
}

static void part_idle(struct bench *b)
{
    const struct rig_step step = {.seq_n = BATCH, .context = b->context};
    double ratio[PAIRS];
    uint32_t n = 0;
    for (; pairs_go_on(b, n); n++) {
        rig_register(&b->rig, false);
        double none_s = rig_seconds(&b->rig, &step, steps_of(b), NULL);
        rig_register(&b->rig, true);
        ratio[n] = rig_seconds(&b->rig, &step, steps_of(b), NULL) / none_s;
    }
    pairs_told(b, n);
    struct gpu_stat s = gpu_stat_of(ratio, n);
    print_ratio("decode, 32 rows, 8 adapters registered but idle / none", s);
    printf("    the same graph: 0 launches more\n");
    say_bar(b, "bar: at most", s.median, 1.003, true);
}

struct bringer {
    struct gpu_rig *rig;
    bool is_ending;
    uint32_t load_n;
};

/* The engine's thread while the rank's runs steps. */
static void *bring_main(void *arg)
{
    struct bringer *bringer = arg;
    while (!__atomic_load_n(&bringer->is_ending, __ATOMIC_RELAXED)) {
        rig_bring(bringer->rig);
        bringer->load_n++;
    }
    return NULL;
}

static int gap_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double gap_p99(struct bench *b, const struct rig_step *step)
{
    static double gaps[GAPS];
    uint32_t n = b->is_tiny ? 8 : GAPS;
    rig_seconds(&b->rig, step, n, gaps);
    qsort(gaps, n, sizeof *gaps, gap_compare);
    return gaps[n - 1 - n / 100];
}

static void load_beside_steps(struct bench *b)
{
    const struct rig_step step = {.seq_n = BATCH, .context = b->context};
    struct bringer bringer = {.rig = &b->rig};
    pthread_t thread;
    double alone_s = gap_p99(b, &step);
    if (pthread_create(&thread, NULL, bring_main, &bringer) != 0) {
        gpu_fail("could not start a thread");
    }
    double beside_s = gap_p99(b, &step);
    __atomic_store_n(&bringer.is_ending, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    printf("token gap of 32 rows, p99: %.3f ms alone, %.3f ms beside %u loads: %.4f\n",
           alone_s * 1e3, beside_s * 1e3, bringer.load_n, beside_s / alone_s);
    say_bar(b, "bar: at most", beside_s / alone_s, 1.10, true);
}

/* One copy of the same bytes from pinned memory. */
static double pinned_seconds(struct bench *b, struct dev_stream *stream, const void *pinned)
{
    int64_t start = clock_now_ns();
    dev_copy_in(stream, b->rig.spare, pinned, b->rig.block_bytes);
    dev_stream_sync(stream);
    return (double)(clock_now_ns() - start) * 1e-9;
}

static void part_load(struct bench *b)
{
    struct dev_stream *stream = dev_stream_new();
    struct err err = {0};
    double load[PAIRS];
    double copy[PAIRS];
    uint32_t n = 0;
    void *pinned;
    if (dev_alloc_pinned(b->rig.block_bytes, false, &pinned, &err)) {
        gpu_fail("%s", err.text);
    }
    memcpy(pinned, b->rig.block, b->rig.block_bytes);
    rig_bring(&b->rig);
    for (; pairs_go_on(b, n); n++) {
        copy[n] = pinned_seconds(b, stream, pinned);
        load[n] = rig_bring(&b->rig);
    }
    pairs_told(b, n);
    struct gpu_stat copied = gpu_stat_of(copy, n);
    struct gpu_stat loaded = gpu_stat_of(load, n);
    printf("an adapter has %.1f MB\n", (double)b->rig.block_bytes * 1e-6);
    gpu_print("adapter, pinned copy", gpu_stat_scaled(copied, 1e3), "ms", 0, NULL);
    gpu_print("adapter, warm in host memory, until it is there", gpu_stat_scaled(loaded, 1e3), "ms",
              0, NULL);
    say_bar(b, "bar: ms at most", loaded.median * 1e3, 1.25 * copied.median * 1e3 + 0.35, true);
    dev_free_pinned(pinned);
    dev_stream_free(stream);
    load_beside_steps(b);
}

static const struct {
    const char *name;
    void (*run)(struct bench *b);
} parts[] = {{"start", part_start}, {"decode", part_decode},   {"mixed", part_mixed},
             {"rows", part_rows},   {"prefill", part_prefill}, {"idle", part_idle},
             {"load", part_load}};

enum { PART_N = ARRAY_N(parts) };

static bool is_listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == '\0' || at[n] == ',')) {
            return true;
        }
    }
    return false;
}

static int bench_run(struct bench *b, const struct tables_shape *shape, const char *list)
{
    const struct rig_sizes *sizes = b->is_tiny ? &sizes_tiny : &sizes_full;
    size_t bytes = rig_bytes(shape, sizes);
    if (bytes > b->info.free_bytes) {
        printf("not available: shape %s needs %.1f GB of GPU memory, %.1f GB are free\n",
               shape->name, (double)bytes * 1e-9, (double)b->info.free_bytes * 1e-9);
        return 3;
    }
    b->context = sizes->context_max;
    b->prompt_n = sizes->row_max / PROMPTS;
    b->copy_gbs = copy_rate(b);
    rig_open(&b->rig, shape, sizes);
    rig_prefill(&b->rig);
    check_contents(b);
    for (uint32_t i = 0; i < PART_N; i++) {
        if (!list || is_listed(list, parts[i].name)) {
            b->part_end_ns = clock_now_ns() + (int64_t)(b->part_s * 1e9);
            parts[i].run(b);
        }
    }
    rig_close(&b->rig);
    return 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: gpu_bench [--shape 8b|3b|0.5b|tiny] [--parts LIST] [--seconds N]\n");
    return 2;
}

static bool list_is_known(const char *list)
{
    uint32_t known_n = 0;
    uint32_t n = 1;
    for (uint32_t i = 0; i < PART_N; i++) {
        known_n += is_listed(list, parts[i].name);
    }
    for (const char *at = list; *at; at++) {
        n += *at == ',';
    }
    return known_n == n;
}

int main(int argc, char **argv)
{
    static struct bench b = {.part_s = 240.0 / PART_N};
    const struct tables_shape *shape = &shapes[0];
    const char *list = NULL;
    char text[DEV_TEXT_BYTES];
    struct err err = {0};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            return usage();
        }
        if (strcmp(argv[i], "--shape") == 0) {
            shape = NULL;
            for (uint32_t s = 0; s < ARRAY_N(shapes); s++) {
                shape = strcmp(argv[i + 1], shapes[s].name) == 0 ? &shapes[s] : shape;
            }
        } else if (strcmp(argv[i], "--parts") == 0) {
            list = argv[i + 1];
        } else if (strcmp(argv[i], "--seconds") == 0) {
            b.part_s = strtod(argv[i + 1], NULL) / PART_N;
        } else {
            return usage();
        }
    }
    if (!shape || (list && !list_is_known(list)) || !(b.part_s > 0)) {
        return usage();
    }
    if (cuda_available(&err) || dev_describe(0, &b.info, &err)) {
        printf("not available: %s\n", err.text);
        return 3;
    }
    b.is_tiny = shape == &shapes[ARRAY_N(shapes) - 1] || b.info.is_emulated;
    shape = b.is_tiny ? &shapes[ARRAY_N(shapes) - 1] : shape;
    dev_info_text(&b.info, text);
    printf("device: %s\nshape: %s, bf16, rank %u on every linear, context %u\n", text, shape->name,
           TABLES_RANK, (b.is_tiny ? &sizes_tiny : &sizes_full)->context_max);
    if (b.info.is_emulated) {
        printf("emulated: figures mean nothing\n");
    }
    return bench_run(&b, shape, list);
}
