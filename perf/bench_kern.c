/* bench_kern [ISA [THREADS [COPIES]]]: the linear op of the cpu backend against the machine's
 * limits.
 *
 * Shapes are those of Qwen2.5-0.5B's MLP. Each figure walks COPIES matrices (default 24, 209 MB),
 * so that weights come from memory as in a model, and is the best of several rounds; cases take
 * turns within a round, so that load on the machine meets them alike. Few rows: weight bytes a
 * second as a share of the streaming read. Many rows: arithmetic as a share of the instruction
 * set's peak. Effects: the time that rank-16 adapters add at 8 rows, beside the share of bytes they
 * add. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/effect.h"
#include "kernels/kern.h"
#include "perf/limits.h"

#define BENCH_ROWS_MAX 512u
#define BENCH_ROUNDS   7
#define BENCH_RANK     16u
#define BENCH_VERSIONS 8u
#define BENCH_WIDE     4864u
#define BENCH_NARROW   896u

struct bench {
    struct kern_dev *dev;
    uint32_t copy_n;
    char *wide;   /* [copy_n] packed [4864, 896] */
    char *narrow; /* [copy_n] packed [896, 4864] */
    size_t w_bytes;
    void *x;
    void *out;
    void *versions[BENCH_VERSIONS];
    struct kern_row rows[BENCH_ROWS_MAX];
    struct kern_seg_row seg_rows[BENCH_ROWS_MAX];
    struct kern_seg segs[BENCH_VERSIONS];
};

static void *bench_reserve(struct bench *b, size_t bytes)
{
    void *p;
    struct err err;
    if (kern_cpu.reserve(b->dev, bytes, &p, &err) != 0) {
        fprintf(stderr, "bench_kern: %s\n", err.text);
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

/* Small numbers without denormals, so that every path does its usual work. */
static void bench_fill(uint16_t *p, size_t n)
{
    uint32_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (uint16_t)((seed >> 31 << 15) | (0x3C00 + (seed >> 16 & 0xFF)));
    }
}

/* Both shapes of site as two sites: 0 is [4864, 896], 1 is [896, 4864]. */
static void *bench_version(struct bench *b)
{
    size_t a_bytes[2] = {kern_cpu.weight_bytes(DTYPE_BF16, BENCH_RANK, BENCH_NARROW),
                         kern_cpu.weight_bytes(DTYPE_BF16, BENCH_RANK, BENCH_WIDE)};
    size_t b_bytes[2] = {kern_cpu.weight_bytes(DTYPE_BF16, BENCH_WIDE, BENCH_RANK),
                         kern_cpu.weight_bytes(DTYPE_BF16, BENCH_NARROW, BENCH_RANK)};
    size_t at = ROUND_UP(sizeof(struct effect_block) + 2 * sizeof(struct effect_lowrank), 64);
    size_t bytes = at + a_bytes[0] + a_bytes[1] + b_bytes[0] + b_bytes[1];
    struct effect_block *block = bench_reserve(b, bytes);
    *block =
        (struct effect_block){EFFECT_BLOCK_MAGIC, EFFECT_BLOCK_VERSION, bytes, 2, sizeof *block};
    struct effect_lowrank *lowrank = (struct effect_lowrank *)(block + 1);
    bench_fill((uint16_t *)((char *)block + at), (bytes - at) / 2);
    for (uint32_t s = 0; s < 2; s++) {
        lowrank[s] = (struct effect_lowrank){BENCH_RANK, 2.0f, at, at + a_bytes[s]};
        at += a_bytes[s] + b_bytes[s];
    }
    return block;
}

static void bench_open(struct bench *b, enum kern_isa isa, uint32_t thread_n)
{
    struct kern_open args = {.isa = isa,
                             .thread_n = thread_n,
                             .held = DTYPE_BF16,
                             .row_max = BENCH_ROWS_MAX,
                             .slot_max = 8,
                             .version_max = BENCH_VERSIONS,
                             .k_max = BENCH_WIDE,
                             .n_max = BENCH_WIDE,
                             .vocab_n = 1024,
                             .rank_max = 64};
    struct err err;
    if (kern_cpu.open(&args, &b->dev, &err) != 0) {
        fprintf(stderr, "bench_kern: %s\n", err.text);
        exit(1);
    }
    b->w_bytes = kern_cpu.weight_bytes(DTYPE_BF16, BENCH_WIDE, BENCH_NARROW);
    b->wide = bench_reserve(b, b->w_bytes * b->copy_n);
    b->narrow = bench_reserve(b, b->w_bytes * b->copy_n);
    b->x = bench_reserve(b, (size_t)BENCH_ROWS_MAX * BENCH_WIDE * 2);
    b->out = bench_reserve(b, (size_t)BENCH_ROWS_MAX * BENCH_WIDE * 4);
    bench_fill((uint16_t *)b->wide, b->w_bytes * b->copy_n / 2);
    bench_fill((uint16_t *)b->narrow, b->w_bytes * b->copy_n / 2);
    bench_fill(b->x, (size_t)BENCH_ROWS_MAX * BENCH_WIDE);
    for (uint32_t i = 0; i < BENCH_VERSIONS; i++) {
        b->versions[i] = bench_version(b);
        kern_cpu.set_version(b->dev, i, b->versions[i]);
        b->segs[i] = (struct kern_seg){.version = i, .row_first = i, .row_n = 1};
    }
    for (uint32_t i = 0; i < BENCH_ROWS_MAX; i++) {
        b->seg_rows[i] = (struct kern_seg_row){i, 1.0f};
    }
}

/* Seconds of one pass over all copies of one shape. */
static double bench_pass(struct bench *b, bool is_wide, uint32_t row_n, uint32_t seg_n)
{
    struct kern_step step = {.rows = b->rows,
                             .row_n = row_n,
                             .segs = b->segs,
                             .seg_n = seg_n,
                             .seg_rows = b->seg_rows,
                             .rope_scale = 1};
    struct kern_linear op = {.x = b->x,
                             .k = is_wide ? BENCH_NARROW : BENCH_WIDE,
                             .site_n = 1,
                             .post = KERN_POST_STORE,
                             .out = b->out};
    op.sites[0].site = is_wide ? 0 : 1;
    op.sites[0].n = is_wide ? BENCH_WIDE : BENCH_NARROW;
    kern_cpu.begin_step(b->dev, &step);
    int64_t start = clock_now_ns();
    for (uint32_t i = 0; i < b->copy_n; i++) {
        op.sites[0].w = (is_wide ? b->wide : b->narrow) + i * b->w_bytes;
        kern_cpu.linear(b->dev, &op);
    }
    double seconds = (double)(clock_now_ns() - start) * 1e-9;
    kern_cpu.end_step(b->dev, NULL, 0);
    kern_cpu.read_step(b->dev, NULL, true);
    return seconds;
}

struct bench_case {
    bool is_wide;
    uint32_t row_n;
    uint32_t seg_n;
    double best;
};

static void bench_print(const struct bench *b, const struct bench_case *c, double read, double peak)
{
    double bytes = (double)b->w_bytes * b->copy_n;
    double flop = 2.0 * BENCH_WIDE * BENCH_NARROW * c->row_n * b->copy_n;
    const char *shape = c->is_wide ? "4864 x 896" : "896 x 4864";
    double gbs = bytes / c->best * 1e-9;
    double gflops = flop / c->best * 1e-9;
    printf("%s %4u rows %8.3f ms  %6.1f GB/s %4.0f %%  %7.1f GFLOP/s %4.0f %%\n", shape, c->row_n,
           c->best * 1e3 / b->copy_n, gbs, 100 * gbs / read, gflops, 100 * gflops / peak);
}

int main(int argc, char **argv)
{
    static struct bench b;
    static struct bench_case cases[] = {
        {true, 1, 0, 1e9},    {true, 4, 0, 1e9},    {true, 8, 0, 1e9},   {true, 16, 0, 1e9},
        {true, 32, 0, 1e9},   {true, 128, 0, 1e9},  {true, 512, 0, 1e9}, {false, 1, 0, 1e9},
        {false, 4, 0, 1e9},   {false, 8, 0, 1e9},   {false, 16, 0, 1e9}, {false, 32, 0, 1e9},
        {false, 128, 0, 1e9}, {false, 512, 0, 1e9},
    };
    static struct bench_case effects[] = {{true, 8, 0, 1e9},  {true, 8, 1, 1e9},
                                          {true, 8, 8, 1e9},  {false, 8, 0, 1e9},
                                          {false, 8, 1, 1e9}, {false, 8, 8, 1e9}};
    enum kern_isa isa = argc > 1 ? kern_isa_parse(argv[1]) : KERN_ISA_AUTO;
    uint32_t thread_n = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
    b.copy_n = argc > 3 ? (uint32_t)atoi(argv[3]) : 24;
    if (isa == KERN_ISA_N || thread_n == 0 || thread_n > 64 || b.copy_n == 0) {
        fprintf(stderr, "usage: bench_kern [ISA [THREADS [COPIES]]]\n");
        return 2;
    }
    bench_open(&b, isa, thread_n);
    const char *name = kern_cpu.isa_name(b.dev);
    double read = limits_read_gbs(thread_n);
    double peak = limits_gflops(name, thread_n);
    printf("%s, %u threads: read %.1f GB/s, peak %.0f GFLOP/s\n", name, thread_n, read, peak);
    for (int round = 0; round < BENCH_ROUNDS; round++) {
        for (uint32_t i = 0; i < ARRAY_N(cases); i++) {
            if (cases[i].row_n >= 128 && round >= 2) {
                continue;
            }
            double took = bench_pass(&b, cases[i].is_wide, cases[i].row_n, 0);
            cases[i].best = MIN(cases[i].best, took);
        }
        for (uint32_t i = 0; i < ARRAY_N(effects); i++) {
            b.segs[0].row_n = effects[i].seg_n == 1 ? 8 : 1;
            double took = bench_pass(&b, effects[i].is_wide, 8, effects[i].seg_n);
            effects[i].best = MIN(effects[i].best, took);
        }
    }
    double read_after = limits_read_gbs(thread_n);
    double peak_after = limits_gflops(name, thread_n);
    printf("after: read %.1f GB/s, peak %.0f GFLOP/s; shares are of the larger ones\n", read_after,
           peak_after);
    for (uint32_t i = 0; i < ARRAY_N(cases); i++) {
        bench_print(&b, &cases[i], MAX(read, read_after), MAX(peak, peak_after));
    }
    for (uint32_t i = 0; i < ARRAY_N(effects); i++) {
        double base = effects[i / 3 * 3].best;
        double bytes = BENCH_RANK * (BENCH_WIDE + BENCH_NARROW) * 2.0 * effects[i].seg_n;
        printf("%s, 8 rows, %u adapters of rank 16: time %+.1f %%, bytes %+.1f %%\n",
               effects[i].is_wide ? "4864 x 896" : "896 x 4864", effects[i].seg_n,
               100 * (effects[i].best / base - 1), 100 * bytes / (double)b.w_bytes);
    }
    kern_cpu.close(b.dev);
    return 0;
}
