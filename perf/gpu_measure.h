/* How gpu_limits measures: samples of queued work, sums that prove it, lines. Host only. A device
 * that fails, and a sum that is wrong, end the process with status 1 and a sentence. */
#ifndef PERF_GPU_MEASURE_H
#define PERF_GPU_MEASURE_H

#include "base/base.h"
#include "kernels/cuda/host.h"

#define SAMPLES       31
#define SAMPLES_QUICK 9
#define WARM_UP       2 /* runs before the samples; they count in the sums */

/* Device memory that kernels count into. */
struct gpu_counts {
    uint32_t sum;   /* of what was read */
    uint32_t wrong; /* words that differ */
    uint32_t run_n; /* kernels of a graph */
};

struct gpu_limits {
    struct dev_info info;
    struct dev_stream *stream;
    char *from; /* [bytes]: gpu_word */
    char *to;   /* [bytes] */
    size_t bytes;
    struct gpu_counts *counts;
    uint32_t block_n; /* of kernels that go through all memory */
    uint32_t sample_n;
    double read_gbs;
};

struct gpu_stat {
    double median, min, max;
};

NORETURN PRINTF_FMT(1, 2) void gpu_fail(const char *fmt, ...);

void gpu_counts_clear(struct gpu_limits *l);
struct gpu_counts gpu_counts_read(struct gpu_limits *l);

/* `times` runs have each added `each` since the counts were cleared. */
void gpu_check_sum(struct gpu_limits *l, const char *name, uint32_t each, uint32_t times);

/* Device memory holds gpu_word(i) at word i. */
void gpu_check_words(struct gpu_limits *l, const char *name, const void *p, size_t bytes);

struct gpu_stat gpu_stat_of(double *v, uint32_t n); /* sorts v */
struct gpu_stat gpu_stat_scaled(struct gpu_stat s, double by);
/* amount / seconds: the longest sample is the lowest rate. */
struct gpu_stat gpu_stat_rate(struct gpu_stat seconds, double amount);

/* Queues work on l->stream. */
typedef void (*gpu_work_fn)(struct gpu_limits *l, const void *arg);

void gpu_wait(struct gpu_limits *l);
/* From the call until the stream is empty again. */
double gpu_seconds(struct gpu_limits *l, gpu_work_fn fn, const void *arg);
/* WARM_UP runs, then sample_n samples; gpu_run_n in all. */
struct gpu_stat gpu_measure(struct gpu_limits *l, gpu_work_fn fn, const void *arg);
uint32_t gpu_run_n(const struct gpu_limits *l);

/* `whole`: what 100 % is; 0 = the line has no share. */
void gpu_print(const char *name, struct gpu_stat s, const char *unit, double whole,
               const char *whole_name);

#endif
