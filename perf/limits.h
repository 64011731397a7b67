/* What this machine can do at most, measured now: the denominators of every figure in perf/.
 *
 * Both use `thread_n` threads for some hundred milliseconds and return the best of several rounds,
 * because on a shared machine the best round is the one that was disturbed least. */
#ifndef PERF_LIMITS_H
#define PERF_LIMITS_H

#include <stdint.h>

/* Streaming read from huge pages, GB/s (10^9 bytes). */
double limits_read_gbs(uint32_t thread_n);

/* Arithmetic of one instruction set on registers, GFLOP/s: "portable", "avx2", "avx512" count f32
 * fused multiply-adds; "avx512bf16" and "amx" bf16 dot products. 0 when the machine lacks it. */
double limits_gflops(const char *isa, uint32_t thread_n);

#endif
