/* Prefill and decode of a whole model in one process, no server: base, one adapter for every
 * sequence, eight different ones. Figures stand beside the read bandwidth and the arithmetic peak
 * measured in the same run; the three modes take turns, round by round, so that their ratios hold
 * on a machine that others disturb.
 *
 *     bench_model MODEL_DIR ADAPTER_ROOT|- [--isa ISA] [--threads N] [--rounds N] [--seqs N]
 *                 [--weights random:SEED]
 *
 * The adapters are a0 .. a7 (perf/make_checkpoint.py), or "-": none. --seqs: no decode of more
 * sequences. With --weights the model needs its config.json only (perf/shapes). Sequences stand at
 * position 64. Of a model with recurrent layers also: eight sequences, each from an initial state
 * of its own, against eight base ones, their first step and the later ones apart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/store.h"
#include "base/clock.h"
#include "base/cpus.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "kernels/kern.h"
#include "model/model.h"
#include "model/walk.h"
#include "perf/limits.h"
#include "sched/batch.h"

#define BENCH_ADAPTERS   8
#define BENCH_SEQS_MAX   32
#define BENCH_PREFILL    512
#define BENCH_CONTEXT    64 /* position of a decode row */
#define BENCH_ROUNDS_MAX 64
#define BENCH_LATER      4 /* decode steps after a first one */

enum bench_mode { MODE_BASE, MODE_ONE, MODE_EIGHT, MODE_N };

struct bench {
    enum kern_isa isa;
    uint32_t thread_n;
    uint32_t round_n;
    uint32_t seq_most;
    const char *random; /* the seed in words, or NULL */
    bool has_adapters;
    struct kern_state state; /* layer_n 0: no recurrent layers */
    struct model model;
    struct walk walk;
    struct batch *batch;
    struct batch_token *tokens;
    size_t adapter_bytes;
    double read_gbs, gflops;
};

static void bench_fail(const char *what, const struct err *err)
{
    fprintf(stderr, "bench_model: %s: %s\n", what, err->text);
    exit(1);
}

static void bench_open(struct bench *b)
{
    struct err err = {0};
    struct model *m = &b->model;
    float *states;
    m->kern = &kern_cpu;
    m->held = b->random || m->desc.checkpoint_dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    b->state = model_state(&m->desc, BENCH_SEQS_MAX);
    struct kern_open args = {
        .isa = b->isa,
        .thread_n = b->thread_n,
        .held = m->held,
        .row_max = BENCH_PREFILL,
        .slot_max = BENCH_SEQS_MAX,
        .version_max = BENCH_ADAPTERS,
        .rank_max = 1024,
    };
    struct kern_kv kv = {.layer_n = m->desc.kv_layer_n,
                         .page_n = BENCH_SEQS_MAX * 2 + BENCH_PREFILL / LIMIT_KV_PAGE,
                         .kv_head_n = m->desc.kv_head_n,
                         .head_dim = m->desc.head_dim,
                         .head_n = m->desc.head_n};
    model_kern_limits(&m->desc, &args);
    if (kern_cpu.open(&args, &m->dev, &err) || kern_cpu.kv_open(m->dev, &kv, &err) ||
        (b->state.layer_n > 0 && kern_cpu.state_open(m->dev, &b->state, &states, &err))) {
        bench_fail("device", &err);
    }
}

static void bench_load_model(struct bench *b, const char *dir)
{
    struct err err = {0};
    struct model *m = &b->model;
    int rc = b->random ? model_desc_read_config(dir, &m->desc, &err)
                       : model_desc_read(dir, &m->desc, &err);
    if (rc) {
        bench_fail("config", &err);
    }
    bench_open(b);
    rc = b->random ? model_load_random(m, dir, strtoull(b->random, NULL, 10), &err)
                   : model_load(m, dir, &err);
    if (rc || walk_init(&b->walk, m, BENCH_PREFILL, BENCH_SEQS_MAX, 1, &err)) {
        bench_fail("model", &err);
    }
}

static void bench_load_adapters(struct bench *b, const char *root)
{
    struct err err = {0};
    struct store *store;
    struct store_config config = {root, &b->model.desc, &kern_cpu, b->model.held};
    if (store_open(&config, &store, &err)) {
        bench_fail("adapters", &err);
    }
    for (uint32_t i = 0; i < BENCH_ADAPTERS; i++) {
        struct prepare_job job = {.store = store};
        void *block;
        snprintf(job.name, sizeof job.name, "a%u", i);
        store_prepare(&job.job);
        if (!job.version) {
            bench_fail(job.name, &job.err);
        }
        size_t bytes = job.version->block_bytes;
        if (kern_cpu.reserve(b->model.dev, bytes, &block, &err)) {
            bench_fail(job.name, &err);
        }
        kern_cpu.put(b->model.dev, block, job.version->block, bytes);
        kern_cpu.set_version(b->model.dev, i, block);
        b->adapter_bytes = bytes;
        version_free(job.version);
    }
    store_close(store);
}

static void bench_batch_new(struct bench *b)
{
    struct batch_limits limits = {
        .row_max = BENCH_PREFILL,
        .seq_max = BENCH_SEQS_MAX,
        .page_max = BENCH_SEQS_MAX * 2 + BENCH_PREFILL / LIMIT_KV_PAGE,
        .seg_max = BENCH_ADAPTERS,
        .seg_row_max = BENCH_PREFILL,
        .sample_max = BENCH_SEQS_MAX,
        .bias_max = 1,
        .hist_max = 1,
        .score_max = 1,
        .start_max = BENCH_ADAPTERS,
    };
    b->batch = mem_zalloc(batch_bytes(&limits));
    batch_init(b->batch, &limits);
    b->tokens = mem_zalloc_n(BENCH_SEQS_MAX + 1, sizeof *b->tokens);
}

/* seq_n sequences of row_n rows each, from position pos_first on. */
static void bench_fill(struct bench *b, uint32_t seq_n, uint32_t row_n, uint32_t pos_first)
{
    struct batch *batch = b->batch;
    uint32_t page_n = DIV_UP(pos_first + row_n, LIMIT_KV_PAGE);
    batch_clear(batch);
    for (uint32_t s = 0; s < seq_n; s++) {
        batch_seqs(batch)[batch->seq_n++] =
            (struct batch_seq){s, batch->row_n, row_n, batch->page_n, page_n};
        for (uint32_t p = 0; p < page_n; p++) {
            batch_pages(batch)[batch->page_n] = batch->page_n;
            batch->page_n++;
        }
        for (uint32_t r = 0; r < row_n; r++) {
            batch_rows(batch)[batch->row_n++] = (struct batch_row){
                (s * 131 + r * 7) % 300, s, pos_first + r, row_n > 1 ? BATCH_ROW_PROMPT : 0};
        }
        batch_samples(batch)[batch->sample_n++] = (struct batch_sample){.row = batch->row_n - 1,
                                                                        .slot = s,
                                                                        .pos = pos_first + row_n,
                                                                        .top_p = 1,
                                                                        .repetition_penalty = 1,
                                                                        .top_logprobs = -1};
    }
}

static void bench_fill_segments(struct bench *b, enum bench_mode mode)
{
    struct batch *batch = b->batch;
    uint32_t version_n = mode == MODE_BASE ? 0 : mode == MODE_ONE ? 1 : BENCH_ADAPTERS;
    for (uint32_t v = 0; v < version_n; v++) {
        struct batch_seg seg = {v, 0, batch->seg_row_n, 0};
        for (uint32_t r = 0; r < batch->row_n; r++) {
            if (batch_rows(batch)[r].slot % version_n == v) {
                batch_seg_rows(batch)[batch->seg_row_n++] = (struct batch_seg_row){r, 1.0f};
                seg.row_n++;
            }
        }
        if (seg.row_n > 0) {
            batch_segs(batch)[batch->seg_n++] = seg;
        }
    }
}

static int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bench_median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, bench_compare);
    return values[n / 2];
}

/* Multiply-adds times two of one row through all linears, and the head for head_rows of rows. */
static double bench_flops(const struct model_desc *d, double rows, double head_rows)
{
    double per_row = 0;
    for (uint32_t s = 0; s < d->site_n; s++) {
        per_row += 2.0 * d->sites[s].n * d->sites[s].k;
    }
    return rows * per_row + head_rows * 2.0 * d->vocab_n * d->hidden;
}

/* Weights that a step reads once: the linears and the head. */
static double bench_weight_bytes(const struct model *m)
{
    return bench_flops(&m->desc, 1, 1) / 2 * (double)dtype_bytes(m->held);
}

/* Recurrent states of one sequence, once through. */
static double bench_state_bytes(const struct bench *b)
{
    return (double)b->state.layer_n * b->state.state_n * sizeof(float);
}

static double bench_step(struct bench *b)
{
    int64_t start = clock_now_ns();
    ASSERT(walk_step(&b->walk, b->batch, b->tokens) == 0);
    return (double)(clock_now_ns() - start) * 1e-9;
}

static void bench_case(struct bench *b, uint32_t seq_n, uint32_t row_n, uint32_t pos_first)
{
    double times[MODE_N][BENCH_ROUNDS_MAX];
    double ratios[MODE_N][BENCH_ROUNDS_MAX];
    static const char *const names[] = {"base", "one adapter", "eight adapters"};
    enum bench_mode mode_n = b->has_adapters ? MODE_N : MODE_ONE;
    double base = bench_weight_bytes(&b->model) + 2 * seq_n * bench_state_bytes(b);
    for (uint32_t round = 0; round < b->round_n + 1; round++) {
        for (enum bench_mode mode = MODE_BASE; mode < mode_n; mode++) {
            bench_fill(b, seq_n, row_n, pos_first);
            bench_fill_segments(b, mode);
            double time = bench_step(b);
            if (round > 0) { /* the first round warms up */
                times[mode][round - 1] = time;
                ratios[mode][round - 1] = times[mode][round - 1] / times[MODE_BASE][round - 1];
            }
        }
    }
    double rows = (double)seq_n * row_n;
    for (enum bench_mode mode = MODE_BASE; mode < mode_n; mode++) {
        double t = bench_median(times[mode], b->round_n);
        uint32_t distinct = mode == MODE_BASE  ? 0
                            : mode == MODE_ONE ? 1
                                               : MIN(seq_n, BENCH_ADAPTERS);
        double bytes = base + (double)distinct * (double)b->adapter_bytes;
        double flops = bench_flops(&b->model.desc, rows, seq_n);
        printf("%-8s %3u x %3u  %-14s %9.1f tok/s %9.2f ms (best %.2f)  %5.1f %% of read  %5.1f %% "
               "of peak  "
               "time %.3f of base (bytes %.3f)\n",
               row_n > 1 ? "prefill" : "decode", seq_n, row_n, names[mode], rows / t, t * 1e3,
               times[mode][0] * 1e3, 100 * bytes / t * 1e-9 / b->read_gbs,
               100 * flops / t * 1e-9 / b->gflops, bench_median(ratios[mode], b->round_n),
               bytes / base);
    }
    fflush(stdout);
}

/* Initial states of small values, as versions 0 to BENCH_ADAPTERS - 1. */
static void bench_make_states(struct bench *b)
{
    struct err err = {0};
    size_t stride = effect_state_stride(b->state.state_n);
    size_t at = EFFECT_LOWRANK_AT + (size_t)b->model.desc.site_n * sizeof(struct effect_lowrank);
    at = ROUND_UP(at, EFFECT_ALIGN);
    struct effect_block head = {.magic = EFFECT_BLOCK_MAGIC,
                                .version = EFFECT_BLOCK_VERSION,
                                .bytes = at + b->state.layer_n * stride,
                                .site_n = b->model.desc.site_n,
                                .lowrank_at = EFFECT_LOWRANK_AT,
                                .state_at = at,
                                .state_n = b->state.state_n};
    for (uint32_t v = 0; v < BENCH_ADAPTERS; v++) {
        void *block;
        uint32_t seed = v + 1;
        if (kern_cpu.reserve(b->model.dev, head.bytes, &block, &err)) {
            bench_fail("states", &err);
        }
        memset(block, 0, at);
        memcpy(block, &head, sizeof head);
        float *values = (float *)(void *)((char *)block + at);
        for (size_t i = 0; i < b->state.layer_n * stride / sizeof *values; i++) {
            seed = seed * 1664525u + 1013904223u;
            values[i] = ((float)(seed >> 8) / 8388608.0f - 1.0f) * 1e-3f;
        }
        kern_cpu.set_version(b->model.dev, v, block);
    }
}

/* What a beginning needs at least: zeros for eight sequences' states, by one thread. */
static double bench_zero(const struct bench *b, void *memory)
{
    int64_t start = clock_now_ns();
    memset(memory, 0, (size_t)(BENCH_ADAPTERS * bench_state_bytes(b)));
    ASSERT(((const char *)memory)[b->state.state_n] == 0); /* so that it is not left out */
    return (double)(clock_now_ns() - start) * 1e-9;
}

/* Eight sequences of row_n prompt rows from position 0, and BENCH_LATER steps behind them. */
static void bench_begin(struct bench *b, bool has_states, uint32_t row_n, double *out_first,
                        double *out_later)
{
    double later[BENCH_LATER];
    bench_fill(b, BENCH_ADAPTERS, row_n, 0);
    for (uint32_t s = 0; has_states && s < BENCH_ADAPTERS; s++) {
        batch_starts(b->batch)[b->batch->start_n++] = (struct batch_start){s, s, 1};
    }
    *out_first = bench_step(b);
    for (uint32_t i = 0; i < BENCH_LATER; i++) {
        bench_fill(b, BENCH_ADAPTERS, 1, row_n + i);
        later[i] = bench_step(b);
    }
    *out_later = bench_median(later, BENCH_LATER);
}

/* Pairs of base and states, each first in every other round; medians over the pairs. */
static void bench_starts(struct bench *b, uint32_t row_n, void *memory)
{
    double first[2][BENCH_ROUNDS_MAX];
    double later[2][BENCH_ROUNDS_MAX];
    double more[BENCH_ROUNDS_MAX];
    double ratio[2][BENCH_ROUNDS_MAX];
    double zero[BENCH_ROUNDS_MAX];
    for (uint32_t round = 0; round < b->round_n + 1; round++) {
        uint32_t at = round > 0 ? round - 1 : 0; /* the first round warms up */
        for (uint32_t turn = 0; turn < 2; turn++) {
            uint32_t mode = (turn + round) % 2;
            bench_begin(b, mode == 1, row_n, &first[mode][at], &later[mode][at]);
        }
        zero[at] = bench_zero(b, memory);
        more[at] = first[1][at] - first[0][at];
        ratio[0][at] = first[1][at] / first[0][at];
        ratio[1][at] = later[1][at] / later[0][at];
    }
    double read = BENCH_ADAPTERS * bench_state_bytes(b) / b->read_gbs * 1e-9;
    for (uint32_t mode = 0; mode < 2; mode++) { /* sorts them: the best stands first */
        bench_median(first[mode], b->round_n);
        bench_median(later[mode], b->round_n);
    }
    printf(
        "begin    %3u x %3u  base %9.2f ms (best %.2f), states %9.2f ms (best %.2f), ratio %.3f, "
        "more by %.2f ms; one read of the states %.2f ms, zeros %.2f ms\n",
        BENCH_ADAPTERS, row_n, first[0][b->round_n / 2] * 1e3, first[0][0] * 1e3,
        first[1][b->round_n / 2] * 1e3, first[1][0] * 1e3, bench_median(ratio[0], b->round_n),
        bench_median(more, b->round_n) * 1e3, read * 1e3, bench_median(zero, b->round_n) * 1e3);
    printf(
        "later    %3u x   1  base %9.2f ms (best %.2f), states %9.2f ms (best %.2f), ratio %.3f\n",
        BENCH_ADAPTERS, later[0][b->round_n / 2] * 1e3, later[0][0] * 1e3,
        later[1][b->round_n / 2] * 1e3, later[1][0] * 1e3, bench_median(ratio[1], b->round_n));
    fflush(stdout);
}

static void bench_states(struct bench *b)
{
    void *memory = mem_alloc((size_t)(BENCH_ADAPTERS * bench_state_bytes(b)));
    bench_make_states(b);
    bench_zero(b, memory); /* its pages */
    bench_starts(b, 1, memory);
    bench_starts(b, LIMIT_PROMPT_CUT, memory);
    mem_free(memory);
}

static void bench_options(struct bench *b, int argc, char **argv)
{
    b->round_n = 9;
    b->seq_most = BENCH_SEQS_MAX;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--isa") == 0) {
            b->isa = kern_isa_parse(argv[i + 1]);
        } else if (strcmp(argv[i], "--threads") == 0) {
            b->thread_n = (uint32_t)atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--rounds") == 0) {
            b->round_n = (uint32_t)MIN(MAX(atoi(argv[i + 1]), 1), BENCH_ROUNDS_MAX);
        } else if (strcmp(argv[i], "--seqs") == 0) {
            b->seq_most = (uint32_t)atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--weights") == 0 && strncmp(argv[i + 1], "random:", 7) == 0) {
            b->random = argv[i + 1] + 7;
        }
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    static const uint32_t decode_n[] = {1, 4, 8, 16, 32};
    if (argc < 3) {
        fprintf(stderr, "usage: bench_model MODEL_DIR ADAPTER_ROOT|- [--isa ISA] [--threads N] "
                        "[--rounds N] [--seqs N] [--weights random:SEED]\n");
        return 2;
    }
    bench_options(&b, argc, argv);
    bench_load_model(&b, argv[1]);
    b.has_adapters = strcmp(argv[2], "-") != 0;
    if (b.has_adapters) {
        bench_load_adapters(&b, argv[2]);
    }
    bench_batch_new(&b);
    bool is_quota;
    uint32_t threads = b.thread_n ? b.thread_n : cpus_granted(&is_quota);
    const char *isa = kern_cpu.isa_name(b.model.dev);
    b.read_gbs = limits_read_gbs(threads);
    b.gflops = limits_gflops(isa, threads);
    printf("isa %s, %u threads, weights %s; limits of this run: read %.1f GB/s, %s %.0f GFLOP/s\n",
           isa, threads, dtype_name(b.model.held), b.read_gbs, isa, b.gflops);
    printf("weights read by a step %.0f MB, one adapter %.1f MB, recurrent states of a sequence "
           "%.1f MB (read and written by a step)\n",
           bench_weight_bytes(&b.model) * 1e-6, (double)b.adapter_bytes * 1e-6,
           bench_state_bytes(&b) * 1e-6);
    bench_case(&b, 1, BENCH_PREFILL, 0);
    for (size_t i = 0; i < ARRAY_N(decode_n) && decode_n[i] <= b.seq_most; i++) {
        bench_case(&b, decode_n[i], 1, BENCH_CONTEXT);
    }
    if (b.state.layer_n > 0) {
        bench_states(&b);
    }
    return 0;
}
