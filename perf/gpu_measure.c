/* Samples are taken by the host's clock round a wait for the stream. */
#include "perf/gpu_measure.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "perf/gpu_limits.h"

void gpu_fail(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "gpu_limits: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

void gpu_wait(struct gpu_limits *l)
{
    if (dev_stream_sync(l->stream) != 0) {
        gpu_fail("the device failed: %s", dev_failure());
    }
}

void gpu_counts_clear(struct gpu_limits *l)
{
    dev_fill(l->stream, l->counts, 0, sizeof *l->counts);
    gpu_wait(l);
}

struct gpu_counts gpu_counts_read(struct gpu_limits *l)
{
    struct gpu_counts c;
    dev_copy_out(l->stream, &c, l->counts, sizeof c);
    gpu_wait(l);
    return c;
}

void gpu_check_sum(struct gpu_limits *l, const char *name, uint32_t each, uint32_t times)
{
    uint32_t sum = gpu_counts_read(l).sum;
    if (sum != each * times) {
        gpu_fail("%s: the sum of %u runs is %u, not %u", name, times, sum, each * times);
    }
}

void gpu_check_words(struct gpu_limits *l, const char *name, const void *p, size_t bytes)
{
    gpu_counts_clear(l);
    gpu_verify(l->stream, l->block_n, p, bytes, &l->counts->wrong);
    uint32_t wrong = gpu_counts_read(l).wrong;
    if (wrong != 0) {
        gpu_fail("%s: %u of %zu words are wrong", name, wrong, bytes / 4);
    }
}

static int gpu_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

struct gpu_stat gpu_stat_of(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, gpu_compare);
    return (struct gpu_stat){v[n / 2], v[0], v[n - 1]};
}

struct gpu_stat gpu_stat_rate(struct gpu_stat seconds, double amount)
{
    return (struct gpu_stat){amount / seconds.median, amount / seconds.max, amount / seconds.min};
}

struct gpu_stat gpu_stat_scaled(struct gpu_stat s, double by)
{
    return (struct gpu_stat){s.median * by, s.min * by, s.max * by};
}

void gpu_print(const char *name, struct gpu_stat s, const char *unit, double whole,
               const char *whole_name)
{
    printf("%s: %.2f %s (%.2f..%.2f)", name, s.median, unit, s.min, s.max);
    if (whole > 0) {
        printf(" %.1f %% of %s", 100 * s.median / whole, whole_name);
    }
    printf("\n");
    fflush(stdout);
}

double gpu_seconds(struct gpu_limits *l, gpu_work_fn fn, const void *arg)
{
    int64_t start = clock_now_ns();
    fn(l, arg);
    gpu_wait(l);
    return (double)(clock_now_ns() - start) * 1e-9;
}

struct gpu_stat gpu_measure(struct gpu_limits *l, gpu_work_fn fn, const void *arg)
{
    double v[SAMPLES];
    for (uint32_t i = 0; i < WARM_UP; i++) {
        gpu_seconds(l, fn, arg);
    }
    for (uint32_t i = 0; i < l->sample_n; i++) {
        v[i] = gpu_seconds(l, fn, arg);
    }
    return gpu_stat_of(v, l->sample_n);
}

uint32_t gpu_run_n(const struct gpu_limits *l)
{
    return WARM_UP + l->sample_n;
}
