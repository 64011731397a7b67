/* Measured limits: each worker runs the same loop over its own share, the clock runs from the
 * moment all are started until the last one ends. */
#include "perf/limits.h"

#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define LIMITS_ROUNDS     7
#define LIMITS_READ_BYTES ((size_t)512 << 20)
#define LIMITS_THREADS    64

struct limits_worker {
    struct thread thread;
    double (*fn)(const struct limits_worker *w); /* returns something so that work is not removed */
    const unsigned char *data;
    size_t bytes;
    uint64_t loop_n;
    double result;
};

static void limits_worker_main(void *arg)
{
    struct limits_worker *w = arg;
    w->result = w->fn(w);
}

/* Seconds of the fastest round. */
static double limits_run(struct limits_worker *workers, uint32_t thread_n)
{
    double best = 1e30;
    for (int round = 0; round < LIMITS_ROUNDS; round++) {
        int64_t start = clock_now_ns();
        for (uint32_t i = 1; i < thread_n; i++) {
            thread_start(&workers[i].thread, THREAD_ANY, "limits", limits_worker_main, &workers[i]);
        }
        limits_worker_main(&workers[0]);
        for (uint32_t i = 1; i < thread_n; i++) {
            thread_join(&workers[i].thread);
        }
        best = MIN(best, (double)(clock_now_ns() - start) * 1e-9);
    }
    return best;
}

static double limits_read_plain(const struct limits_worker *w)
{
    const uint64_t *p = (const uint64_t *)(const void *)w->data;
    uint64_t s0 = 0;
    uint64_t s1 = 0;
    for (size_t i = 0; i + 16 <= w->bytes / 8; i += 16) {
        for (size_t j = 0; j < 16; j += 2) {
            s0 ^= p[i + j];
            s1 ^= p[i + j + 1];
        }
    }
    return (double)(s0 ^ s1);
}

static double limits_fma_plain(const struct limits_worker *w)
{
    float acc[64] = {0};
    for (uint64_t i = 0; i < w->loop_n; i++) {
        for (size_t j = 0; j < 64; j++) {
            acc[j] = acc[j] * 0.999f + 0.5f;
        }
    }
    return (double)acc[w->loop_n % 64];
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) static double limits_read_avx512(const struct limits_worker *w)
{
    __m512i s0 = _mm512_setzero_si512();
    __m512i s1 = s0;
    for (size_t i = 0; i + 256 <= w->bytes; i += 256) {
        const char *p = (const char *)w->data + i;
        for (size_t j = 0; j < 4; j++) {
            _mm_prefetch(p + 1024 + 64 * j, _MM_HINT_T0);
        }
        s0 = _mm512_xor_si512(s0, _mm512_load_si512(p));
        s1 = _mm512_xor_si512(s1, _mm512_load_si512(p + 64));
        s0 = _mm512_xor_si512(s0, _mm512_load_si512(p + 128));
        s1 = _mm512_xor_si512(s1, _mm512_load_si512(p + 192));
    }
    return (double)_mm512_reduce_add_epi64(_mm512_xor_si512(s0, s1));
}

__attribute__((target("avx2"))) static double limits_read_avx2(const struct limits_worker *w)
{
    __m256i s0 = _mm256_setzero_si256();
    __m256i s1 = s0;
    for (size_t i = 0; i + 128 <= w->bytes; i += 128) {
        const char *p = (const char *)w->data + i;
        _mm_prefetch(p + 1024, _MM_HINT_T0);
        _mm_prefetch(p + 1088, _MM_HINT_T0);
        s0 = _mm256_xor_si256(s0, _mm256_load_si256((const __m256i *)(const void *)p));
        s1 = _mm256_xor_si256(s1, _mm256_load_si256((const __m256i *)(const void *)(p + 32)));
        s0 = _mm256_xor_si256(s0, _mm256_load_si256((const __m256i *)(const void *)(p + 64)));
        s1 = _mm256_xor_si256(s1, _mm256_load_si256((const __m256i *)(const void *)(p + 96)));
    }
    return (double)_mm256_extract_epi64(_mm256_xor_si256(s0, s1), 0);
}

/* Sixteen independent chains hide the latency of the multiply-add. */
#define LIMITS_CHAINS 16

__attribute__((target("avx512f"))) static double limits_fma_avx512(const struct limits_worker *w)
{
    __m512 acc[LIMITS_CHAINS];
    __m512 x = _mm512_set1_ps(0.999f);
    for (size_t j = 0; j < LIMITS_CHAINS; j++) {
        acc[j] = _mm512_set1_ps((float)j);
    }
    for (uint64_t i = 0; i < w->loop_n; i++) {
#pragma GCC unroll 16
        for (size_t j = 0; j < LIMITS_CHAINS; j++) {
            acc[j] = _mm512_fmadd_ps(acc[j], x, x);
        }
    }
    for (size_t j = 1; j < LIMITS_CHAINS; j++) {
        acc[0] = _mm512_add_ps(acc[0], acc[j]);
    }
    return (double)_mm512_reduce_add_ps(acc[0]);
}

#define LIMITS_CHAINS_AVX2 12

__attribute__((target("avx2,fma"))) static double limits_fma_avx2(const struct limits_worker *w)
{
    __m256 acc[LIMITS_CHAINS_AVX2];
    __m256 x = _mm256_set1_ps(0.999f);
    for (size_t j = 0; j < LIMITS_CHAINS_AVX2; j++) {
        acc[j] = _mm256_set1_ps((float)j);
    }
    for (uint64_t i = 0; i < w->loop_n; i++) {
#pragma GCC unroll 12
        for (size_t j = 0; j < LIMITS_CHAINS_AVX2; j++) {
            acc[j] = _mm256_fmadd_ps(acc[j], x, x);
        }
    }
    for (size_t j = 1; j < LIMITS_CHAINS_AVX2; j++) {
        acc[0] = _mm256_add_ps(acc[0], acc[j]);
    }
    return (double)_mm256_cvtss_f32(acc[0]);
}

__attribute__((target("avx512f,avx512bf16"))) static double limits_dot_bf16(
    const struct limits_worker *w)
{
    __m512 acc[LIMITS_CHAINS];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3F003F00);
    for (size_t j = 0; j < LIMITS_CHAINS; j++) {
        acc[j] = _mm512_set1_ps((float)j);
    }
    for (uint64_t i = 0; i < w->loop_n; i++) {
#pragma GCC unroll 16
        for (size_t j = 0; j < LIMITS_CHAINS; j++) {
            acc[j] = _mm512_dpbf16_ps(acc[j], x, x);
        }
    }
    for (size_t j = 1; j < LIMITS_CHAINS; j++) {
        acc[0] = _mm512_add_ps(acc[0], acc[j]);
    }
    return (double)_mm512_reduce_add_ps(acc[0]);
}

#endif

double limits_read_gbs(uint32_t thread_n)
{
    struct limits_worker workers[LIMITS_THREADS] = {0};
    void *data;
    struct err err;
    ASSERT_CMP(thread_n, <=, LIMITS_THREADS);
    ASSERT(mem_pages_alloc(LIMITS_READ_BYTES + 4096, &data, &err) == 0);
    memset(data, 1, LIMITS_READ_BYTES + 4096);
    size_t share = LIMITS_READ_BYTES / thread_n / 4096 * 4096;
    for (uint32_t i = 0; i < thread_n; i++) {
        workers[i].data = (const unsigned char *)data + i * share;
        workers[i].bytes = share;
        workers[i].fn = limits_read_plain;
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx512f")) {
            workers[i].fn = limits_read_avx512;
        } else if (__builtin_cpu_supports("avx2")) {
            workers[i].fn = limits_read_avx2;
        }
#endif
    }
    double seconds = limits_run(workers, thread_n);
    mem_pages_free(data, LIMITS_READ_BYTES + 4096);
    return (double)(share * thread_n) / seconds * 1e-9;
}

#if defined(__x86_64__)

struct limits_tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

__attribute__((target("amx-tile,amx-bf16"))) static double limits_dot_amx(
    const struct limits_worker *w)
{
    /* gcc 12 believes _tile_loadconfig reads 8 bytes; the clobber makes it store all 64. */
    struct limits_tile_config config = {.palette = 1};
    for (size_t i = 0; i < 8; i++) {
        config.colsb[i] = 64;
        config.rows[i] = 16;
    }
    __asm__("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (uint64_t i = 0; i < w->loop_n; i++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
    return 0;
}

static bool limits_has_amx(void)
{
    unsigned a = 7;
    unsigned b;
    unsigned c = 0;
    unsigned d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (d >> 22 & 1) && (d >> 24 & 1) && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

static bool limits_has_bf16(void)
{
    unsigned a = 7;
    unsigned b;
    unsigned c = 1;
    unsigned d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return __builtin_cpu_supports("avx512f") && (a >> 5 & 1);
}

#endif

double limits_gflops(const char *isa, uint32_t thread_n)
{
    struct limits_worker workers[LIMITS_THREADS] = {0};
    double (*fn)(const struct limits_worker *w) = NULL;
    double flops_per_loop = 0;
    ASSERT(thread_n >= 1 && thread_n <= LIMITS_THREADS);
    if (strcmp(isa, "portable") == 0) {
        fn = limits_fma_plain;
        flops_per_loop = 64 * 2;
    }
#if defined(__x86_64__)
    if (strcmp(isa, "avx512") == 0 && __builtin_cpu_supports("avx512f")) {
        fn = limits_fma_avx512;
        flops_per_loop = LIMITS_CHAINS * 16 * 2;
    } else if (strcmp(isa, "avx2") == 0 && __builtin_cpu_supports("fma")) {
        fn = limits_fma_avx2;
        flops_per_loop = LIMITS_CHAINS_AVX2 * 8 * 2;
    } else if (strcmp(isa, "avx512bf16") == 0 && limits_has_bf16()) {
        fn = limits_dot_bf16;
        flops_per_loop = LIMITS_CHAINS * 32 * 2;
    } else if (strcmp(isa, "amx") == 0 && limits_has_amx()) {
        fn = limits_dot_amx;
        flops_per_loop = 4.0 * 16 * 16 * 32 * 2;
    }
#endif
    if (!fn) {
        return 0;
    }
    for (uint32_t i = 0; i < thread_n; i++) {
        workers[i].fn = fn;
        workers[i].loop_n = 1000000;
    }
    double seconds = limits_run(workers, thread_n);
    return flops_per_loop * 1000000 * thread_n / seconds * 1e-9;
}
