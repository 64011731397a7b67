/* Prefill and decode of a whole model in one process, no server: base, one adapter for every
 * sequence, eight different ones. Figures stand beside the read bandwidth and the arithmetic peak
 * measured in the same run; the three modes take turns, round by round, so that their ratios hold
 * on a machine that others disturb.
 *
 *     bench_model MODEL_DIR ADAPTER_ROOT [--isa ISA] [--threads N] [--rounds N]
 *
 * The adapters are a0 .. a7 (perf/make_checkpoint.py). Sequences stand at position 64. */
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

enum bench_mode { MODE_BASE, MODE_ONE, MODE_EIGHT, MODE_N };

struct bench {
    enum kern_isa isa;
    uint32_t thread_n;
    uint32_t round_n;
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

static void bench_load_model(struct bench *b, const char *dir)
{
    struct err err = {0};
    struct model *m = &b->model;
    if (model_desc_read(dir, &m->desc, &err)) {
        bench_fail("config", &err);
    }
    m->kern = &kern_cpu;
    m->held = m->desc.checkpoint_dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    uint32_t q_n = m->desc.head_n * m->desc.head_dim;
    uint32_t kv_n = m->desc.kv_head_n * m->desc.head_dim;
    struct kern_open args = {
        .isa = b->isa,
        .thread_n = b->thread_n,
        .held = m->held,
        .row_max = BENCH_PREFILL,
        .slot_max = BENCH_SEQS_MAX,
        .version_max = BENCH_ADAPTERS,
        .k_max = MAX(m->desc.ffn, MAX(m->desc.hidden, q_n)),
        .n_max = MAX(2 * m->desc.ffn, q_n + 2 * kv_n),
        .vocab_n = m->desc.vocab_n,
        .rank_max = 1024,
    };
    if (kern_cpu.open(&args, &m->dev, &err) || model_load(m, dir, &err)) {
        bench_fail("model", &err);
    }
    struct kern_kv kv = {m->desc.kv_layer_n, BENCH_SEQS_MAX * 2 + BENCH_PREFILL / LIMIT_KV_PAGE,
                         m->desc.kv_head_n, m->desc.head_dim};
    if (kern_cpu.kv_open(m->dev, &kv, &err) ||
        walk_init(&b->walk, m, BENCH_PREFILL, BENCH_SEQS_MAX, 1, &err)) {
        bench_fail("memory", &err);
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

static void bench_case(struct bench *b, uint32_t seq_n, uint32_t row_n, uint32_t pos_first)
{
    double times[MODE_N][BENCH_ROUNDS_MAX];
    double ratios[MODE_N][BENCH_ROUNDS_MAX];
    static const char *const names[] = {"base", "one adapter", "eight adapters"};
    for (uint32_t round = 0; round < b->round_n + 1; round++) {
        for (enum bench_mode mode = MODE_BASE; mode < MODE_N; mode++) {
            bench_fill(b, seq_n, row_n, pos_first);
            bench_fill_segments(b, mode);
            int64_t start = clock_now_ns();
            ASSERT(walk_step(&b->walk, b->batch, b->tokens) == 0);
            if (round > 0) { /* the first round warms up */
                times[mode][round - 1] = (double)(clock_now_ns() - start) * 1e-9;
                ratios[mode][round - 1] = times[mode][round - 1] / times[MODE_BASE][round - 1];
            }
        }
    }
    double rows = (double)seq_n * row_n;
    for (enum bench_mode mode = MODE_BASE; mode < MODE_N; mode++) {
        double t = bench_median(times[mode], b->round_n);
        uint32_t distinct = mode == MODE_BASE  ? 0
                            : mode == MODE_ONE ? 1
                                               : MIN(seq_n, BENCH_ADAPTERS);
        double bytes = bench_weight_bytes(&b->model) + (double)distinct * (double)b->adapter_bytes;
        double flops = bench_flops(&b->model.desc, rows, seq_n);
        printf("%-8s %3u x %3u  %-14s %9.1f tok/s %9.2f ms  %5.1f %% of read  %5.1f %% of peak  "
               "time %.3f of base (bytes %.3f)\n",
               row_n > 1 ? "prefill" : "decode", seq_n, row_n, names[mode], rows / t, t * 1e3,
               100 * bytes / t * 1e-9 / b->read_gbs, 100 * flops / t * 1e-9 / b->gflops,
               bench_median(ratios[mode], b->round_n), bytes / bench_weight_bytes(&b->model));
    }
    fflush(stdout);
}

static void bench_options(struct bench *b, int argc, char **argv)
{
    b->round_n = 9;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--isa") == 0) {
            b->isa = kern_isa_parse(argv[i + 1]);
        } else if (strcmp(argv[i], "--threads") == 0) {
            b->thread_n = (uint32_t)atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--rounds") == 0) {
            b->round_n = (uint32_t)MIN(MAX(atoi(argv[i + 1]), 1), BENCH_ROUNDS_MAX);
        }
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    static const uint32_t decode_n[] = {1, 4, 8, 16, 32};
    if (argc < 3) {
        fprintf(stderr, "usage: bench_model MODEL_DIR ADAPTER_ROOT [--isa ISA] [--threads N] "
                        "[--rounds N]\n");
        return 2;
    }
    bench_options(&b, argc, argv);
    bench_load_model(&b, argv[1]);
    bench_load_adapters(&b, argv[2]);
    bench_batch_new(&b);
    bool is_quota;
    uint32_t threads = b.thread_n ? b.thread_n : cpus_granted(&is_quota);
    const char *isa = kern_cpu.isa_name(b.model.dev);
    b.read_gbs = limits_read_gbs(threads);
    b.gflops = limits_gflops(isa, threads);
    printf("isa %s, %u threads, weights %s; limits of this run: read %.1f GB/s, %s %.0f GFLOP/s\n",
           isa, threads, dtype_name(b.model.held), b.read_gbs, isa, b.gflops);
    printf("weights read by a step %.0f MB, one adapter %.1f MB\n",
           bench_weight_bytes(&b.model) * 1e-6, (double)b.adapter_bytes * 1e-6);
    bench_case(&b, 1, BENCH_PREFILL, 0);
    for (size_t i = 0; i < ARRAY_N(decode_n); i++) {
        bench_case(&b, decode_n[i], 1, BENCH_CONTEXT);
    }
    return 0;
}
