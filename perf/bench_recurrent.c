/* bench_recurrent [ISA [THREADS [LAYERS]]]: the recurrent mixers of the cpu backend against the
 * machine's limits.
 *
 * One mebibyte of state a layer and sequence in either mixer: gdn 16 heads of 128 x 128, ssd 32 of
 * 64 x 128. Decode: one row of each of 8 sequences through LAYERS layers (default 24, 201 MB of
 * states, so that they come from memory); each is read once and written once, and bytes a second
 * count both, as a share of the streaming read. Prefill: 512 rows of one sequence through one
 * layer; arithmetic is what the chunked form needs, as a share of fp32's peak. Begin: the decode
 * step at position 0, from zeros and from eight versions' states, in alternating pairs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/effect.h"
#include "kernels/kern.h"
#include "perf/limits.h"

#define BENCH_ROWS    512u
#define BENCH_SEQS    8u
#define BENCH_ROUNDS  7
#define BENCH_PAIRS   41
#define BENCH_CONTEXT 64
#define BENCH_CHUNK   ((double)LIMIT_PROMPT_CUT)

static const struct kern_gdn bench_gdn = {
    .key_head_n = 16, .value_head_n = 16, .key_dim = 128, .value_dim = 128, .norm_eps = 1e-6f};
static const struct kern_ssd bench_ssd = {.head_n = 32,
                                          .head_dim = 64,
                                          .group_n = 1,
                                          .state_dim = 128,
                                          .multipliers = {1, 1, 1, 1, 1},
                                          .norm_order = KERN_SSD_NORM_LAST,
                                          .norm_eps = 1e-6f};

struct bench {
    struct kern_dev *dev;
    bool is_ssd;
    uint32_t layer_n;
    struct kern_state state;
    float *x;
    float *weights; /* taken for every one of an op's */
    void *out;
    struct kern_row rows[BENCH_ROWS];
    struct kern_seq seqs[BENCH_SEQS];
    struct kern_start starts[BENCH_SEQS];
    uint32_t pos_first, start_n;
    uint32_t pages[BENCH_SEQS * BENCH_ROWS / LIMIT_KV_PAGE];
};

static void bench_check(int rc, const struct err *err)
{
    if (rc != 0) {
        fprintf(stderr, "bench_recurrent: %s\n", err->text);
        exit(1);
    }
}

static float *bench_floats(struct bench *b, size_t n, float scale)
{
    uint32_t seed = 1;
    struct err err;
    void *memory = NULL;
    bench_check(kern_cpu.reserve(b->dev, n * sizeof(float), &memory, &err), &err);
    float *p = memory;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = ((float)(seed >> 8) / 8388608.0f - 1.0f) * scale;
    }
    return p;
}

static void bench_open(struct bench *b, enum kern_isa isa, uint32_t thread_n)
{
    uint32_t row_n = b->is_ssd ? kern_ssd_row_n(&bench_ssd) : kern_gdn_row_n(&bench_gdn);
    struct kern_open args = {.isa = isa,
                             .thread_n = thread_n,
                             .held = DTYPE_BF16,
                             .row_max = BENCH_ROWS,
                             .slot_max = BENCH_SEQS,
                             .version_max = BENCH_SEQS,
                             .k_max = 64,
                             .n_max = row_n,
                             .vocab_n = 64,
                             .rank_max = 1};
    struct err err;
    float *memory = NULL;
    bench_check(kern_cpu.open(&args, &b->dev, &err), &err);
    b->state = (struct kern_state){
        .layer_n = b->layer_n,
        .slot_n = BENCH_SEQS,
        .state_n = b->is_ssd ? kern_ssd_state_n(&bench_ssd) : kern_gdn_state_n(&bench_gdn),
        .conv_n = b->is_ssd ? kern_ssd_conv_n(&bench_ssd) : kern_gdn_conv_n(&bench_gdn)};
    bench_check(kern_cpu.state_open(b->dev, &b->state, &memory, &err), &err);
    memset(memory, 0, kern_state_bytes(&b->state));
    b->x = bench_floats(b, (size_t)BENCH_ROWS * row_n, 1.0f);
    b->weights = bench_floats(b, (size_t)b->state.conv_n * LIMIT_CONV_TAPS, 0.5f);
    b->out = bench_floats(b, (size_t)BENCH_ROWS * row_n, 0.0f);
}

static void bench_call(const struct bench *b, uint32_t layer)
{
    const struct kern_conv conv = {.w = b->weights};
    if (b->is_ssd) {
        struct kern_ssd op = bench_ssd;
        op.state_layer = layer;
        op.x = b->x;
        op.conv = conv;
        op.a_log = op.dt_bias = op.d = op.norm = b->weights;
        op.out = b->out;
        kern_cpu.ssd(b->dev, &op);
    } else {
        struct kern_gdn op = bench_gdn;
        op.state_layer = layer;
        op.x = b->x;
        op.conv = conv;
        op.a_log = op.dt_bias = op.norm = b->weights;
        op.out = b->out;
        kern_cpu.gdn(b->dev, &op);
    }
}

/* Seconds of a step through layer_n layers: a row of every sequence, or all rows of one. */
static double bench_pass(struct bench *b, bool is_prompt, uint32_t layer_n)
{
    uint32_t seq_n = is_prompt ? 1 : BENCH_SEQS;
    uint32_t each = is_prompt ? BENCH_ROWS : 1;
    for (uint32_t i = 0; i < seq_n * each; i++) {
        b->rows[i] = (struct kern_row){.slot = i / each,
                                       .pos = b->pos_first + i % each,
                                       .flags = is_prompt ? KERN_ROW_PROMPT : 0};
    }
    for (uint32_t i = 0; i < seq_n; i++) {
        b->seqs[i] = (struct kern_seq){
            .slot = i, .row_first = i * each, .row_n = each, .page_n = ARRAY_N(b->pages)};
    }
    struct kern_step step = {.rows = b->rows,
                             .row_n = seq_n * each,
                             .seqs = b->seqs,
                             .seq_n = seq_n,
                             .pages = b->pages,
                             .starts = b->starts,
                             .start_n = b->start_n,
                             .rope_scale = 1};
    kern_cpu.begin_step(b->dev, &step);
    int64_t start = clock_now_ns();
    for (uint32_t i = 0; i < layer_n; i++) {
        bench_call(b, i);
    }
    double seconds = (double)(clock_now_ns() - start) * 1e-9;
    kern_cpu.end_step(b->dev, NULL, 0);
    kern_cpu.read_step(b->dev, NULL, true);
    return seconds;
}

/* The best round of each: limits and ops take turns, so that load on the machine meets both. */
struct bench_figures {
    double read;
    double peak;
    double decode;
    double prefill;
};

static int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A version for each sequence, with states and nothing else. */
static void bench_versions(struct bench *b)
{
    size_t stride = effect_state_stride(b->state.state_n);
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .bytes = EFFECT_ALIGN * 2 + b->layer_n * stride,
                                .lowrank_at = EFFECT_LOWRANK_AT,
                                .state_at = EFFECT_ALIGN * 2,
                                .state_n = b->state.state_n};
    for (uint32_t v = 0; v < BENCH_SEQS; v++) {
        float *block = bench_floats(b, head.bytes / sizeof *block, 1e-3f);
        memcpy(block, &head, sizeof head);
        kern_cpu.set_version(b->dev, v, block);
        b->starts[v] = (struct kern_start){.slot = v, .version = v, .weight = 1};
    }
}

/* What beginning with states costs beside beginning with zeros; one read of them, beside. */
static void bench_begin(struct bench *b, const struct bench_figures *best)
{
    double times[2][BENCH_PAIRS];
    double more[BENCH_PAIRS];
    double read = (double)b->layer_n * BENCH_SEQS * b->state.state_n * sizeof(float) / best->read;
    b->pos_first = 0;
    for (uint32_t i = 0; i < BENCH_PAIRS; i++) {
        for (uint32_t turn = 0; turn < 2; turn++) {
            uint32_t mode = (turn + i) % 2;
            b->start_n = mode * BENCH_SEQS;
            times[mode][i] = bench_pass(b, false, b->layer_n);
        }
        more[i] = times[1][i] - times[0][i];
    }
    b->start_n = 0;
    b->pos_first = BENCH_CONTEXT;
    for (uint32_t mode = 0; mode < 2; mode++) {
        qsort(times[mode], BENCH_PAIRS, sizeof(double), bench_compare);
    }
    qsort(more, BENCH_PAIRS, sizeof(double), bench_compare);
    printf(
        "%s begin   %u sequences: zeros %.2f ms (best %.2f), states %.2f ms (best %.2f), more by "
        "%.2f ms (best %.2f), one read of them %.2f ms\n",
        b->is_ssd ? "ssd" : "gdn", BENCH_SEQS, times[0][BENCH_PAIRS / 2] * 1e3, times[0][0] * 1e3,
        times[1][BENCH_PAIRS / 2] * 1e3, times[1][0] * 1e3, more[BENCH_PAIRS / 2] * 1e3,
        (times[1][0] - times[0][0]) * 1e3, read * 1e-6);
}

/* Products of the chunked form for a row, all heads. */
static double bench_row_flop(bool is_ssd)
{
    double k = is_ssd ? bench_ssd.state_dim : bench_gdn.key_dim;
    double v = is_ssd ? bench_ssd.head_dim : bench_gdn.value_dim;
    double head_n = is_ssd ? bench_ssd.head_n : bench_gdn.value_head_n;
    double squares = BENCH_CHUNK / 2 * (k + v);
    return 2 * head_n * (is_ssd ? 2 * k * v + squares : 3 * k * v + 2 * squares);
}

static void bench_round(struct bench *b, const char *exact, uint32_t thread_n,
                        struct bench_figures *io)
{
    double decode = bench_pass(b, false, b->layer_n);
    double prefill = bench_pass(b, true, 1);
    double read = limits_read_gbs(thread_n);
    double peak = limits_gflops(exact, thread_n);
    io->decode = MIN(io->decode, decode);
    io->prefill = MIN(io->prefill, prefill);
    io->read = MAX(io->read, read);
    io->peak = MAX(io->peak, peak);
}

static void bench_print(const struct bench *b, const struct bench_figures *best)
{
    double bytes = 2.0 * (double)kern_state_bytes(&b->state);
    double gbs = bytes / best->decode * 1e-9;
    double gflops = bench_row_flop(b->is_ssd) * BENCH_ROWS / best->prefill * 1e-9;
    const char *name = b->is_ssd ? "ssd" : "gdn";
    printf("%s decode  %u sequences %8.3f ms a layer  %6.1f GB/s %4.0f %%\n", name, BENCH_SEQS,
           best->decode * 1e3 / b->layer_n, gbs, 100 * gbs / best->read);
    printf("%s prefill %u rows %10.3f ms a layer  %6.1f GFLOP/s %4.0f %%\n", name, BENCH_ROWS,
           best->prefill * 1e3, gflops, 100 * gflops / best->peak);
}

int main(int argc, char **argv)
{
    static struct bench b;
    enum kern_isa isa = argc > 1 ? kern_isa_parse(argv[1]) : KERN_ISA_AUTO;
    uint32_t thread_n = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
    b.pos_first = BENCH_CONTEXT;
    b.layer_n = argc > 3 ? (uint32_t)atoi(argv[3]) : 24;
    if (isa == KERN_ISA_N || thread_n == 0 || thread_n > 64 || b.layer_n == 0) {
        fprintf(stderr, "usage: bench_recurrent [ISA [THREADS [LAYERS]]]\n");
        return 2;
    }
    for (int is_ssd = 0; is_ssd < 2; is_ssd++) {
        b.is_ssd = is_ssd == 1;
        bench_open(&b, isa, thread_n);
        const char *name = kern_cpu.isa_name(b.dev);
        bool is_wide = kern_isa_parse(name) >= KERN_ISA_AVX512;
        const char *exact = is_wide ? "avx512" : name;
        struct bench_figures figures = {.decode = 1e9, .prefill = 1e9};
        for (int round = 0; round < BENCH_ROUNDS; round++) {
            bench_round(&b, exact, thread_n, &figures);
        }
        printf("%s, %u threads: read %.1f GB/s, peak of fp32 %.0f GFLOP/s\n", name, thread_n,
               figures.read, figures.peak);
        bench_print(&b, &figures);
        bench_versions(&b);
        bench_begin(&b, &figures);
        kern_cpu.close(b.dev);
    }
    return 0;
}
