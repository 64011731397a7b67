/* Which paths this machine can run, and which is the fastest. */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cpu/cpu_int.h"

#define ISA_TRIAL_K       1024u
#define ISA_TRIAL_N       512u
#define ISA_TRIAL_ROWS    32u
#define ISA_TRIAL_REPEATS 5
#define ISA_TRIAL_PERCENT 90 /* a wider path must take less than this to replace a narrower one */

#if defined(__x86_64__)

#define ISA_ARCH_REQ_XCOMP_PERM 0x1023
#define ISA_XFEATURE_XTILEDATA  18

static bool isa_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool isa_has_avx512(void)
{
    return isa_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

/* Asks the kernel for the tile state too: it may refuse. */
static bool isa_has_amx(void)
{
    uint32_t a;
    uint32_t b;
    uint32_t c;
    uint32_t d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return false;
    }
    bool has_bf16 = d >> 22 & 1;
    bool has_tile = d >> 24 & 1;
    return has_bf16 && has_tile &&
           syscall(SYS_arch_prctl, ISA_ARCH_REQ_XCOMP_PERM, ISA_XFEATURE_XTILEDATA) == 0;
}

bool cpu_isa_is_present(enum kern_isa isa, const char **out_missing)
{
    const char *missing = NULL;
    if (isa >= KERN_ISA_AVX2 && !isa_has_avx2()) {
        missing = "AVX2 with FMA";
    } else if (isa >= KERN_ISA_AVX512 && !isa_has_avx512()) {
        missing = "AVX-512 F, BW, VL and DQ";
    } else if (isa == KERN_ISA_AVX512BF16 && !__builtin_cpu_supports("avx512bf16")) {
        missing = "AVX512_BF16";
    } else if (isa == KERN_ISA_AMX && !isa_has_amx()) {
        missing = "AMX-BF16, or the kernel's leave to use it";
    }
    *out_missing = missing;
    return !missing;
}

const struct cpu_path *cpu_isa_path(enum kern_isa isa, bool is_stand_in)
{
    bool is_fused = isa_has_avx2();
    switch (isa) {
    case KERN_ISA_AVX2:
        return &cpu_path_avx2;
    case KERN_ISA_AVX512:
        return &cpu_path_avx512;
    case KERN_ISA_AVX512BF16:
        return !is_stand_in ? &cpu_path_avx512bf16
               : is_fused   ? &cpu_path_avx512bf16_stand_in_fused
                            : &cpu_path_avx512bf16_stand_in;
    case KERN_ISA_AMX:
        return !is_stand_in ? &cpu_path_amx
               : is_fused   ? &cpu_path_amx_stand_in_fused
                            : &cpu_path_amx_stand_in;
    default:
        return is_fused ? &cpu_path_portable_fused : &cpu_path_portable;
    }
}

#else

bool cpu_isa_is_present(enum kern_isa isa, const char **out_missing)
{
    *out_missing = isa == KERN_ISA_PORTABLE ? NULL : "an x86-64 processor";
    return isa == KERN_ISA_PORTABLE;
}

const struct cpu_path *cpu_isa_path(enum kern_isa isa, bool is_stand_in)
{
    (void)is_stand_in;
    return isa == KERN_ISA_AVX512BF16 ? &cpu_path_avx512bf16_stand_in
           : isa == KERN_ISA_AMX      ? &cpu_path_amx_stand_in
                                      : &cpu_path_portable;
}

#endif

/* Nanoseconds of one pass over a trial matrix, the best of a few. */
static int64_t isa_trial_pass(const struct cpu_mm *mm, enum dtype held, uint32_t row_n,
                              char *memory)
{
    size_t w_bytes = layout_bytes(held, ISA_TRIAL_N, ISA_TRIAL_K);
    const uint16_t *src = (const uint16_t *)memory;
    char *w = memory + (size_t)ISA_TRIAL_ROWS * ISA_TRIAL_K * sizeof(float);
    char *x = w + w_bytes;
    float *out = (float *)(x + mm->x_bytes(ISA_TRIAL_ROWS, ISA_TRIAL_K));
    struct cpu_pack pack = {src, ISA_TRIAL_K, NULL, row_n, ISA_TRIAL_K, x};
    int64_t best = INT64_MAX;
    for (uint32_t b = 0; b < DIV_UP(row_n, mm->row_block); b++) {
        mm->pack(&pack, b);
    }
    for (int i = 0; i < ISA_TRIAL_REPEATS; i++) {
        int64_t start = clock_now_ns();
        for (uint32_t g = 0; g < layout_group_n(ISA_TRIAL_N); g++) {
            mm->run(&(struct cpu_gemm){
                .x = x,
                .w = layout_group(held, w, ISA_TRIAL_K, g),
                .row_n = row_n,
                .k = ISA_TRIAL_K,
                .k_layout = ISA_TRIAL_K,
                .tile_n = 2,
                .out = out + (size_t)g * LAYOUT_GROUP,
                .stride = ISA_TRIAL_N,
            });
        }
        int64_t took = clock_now_ns() - start;
        best = MIN(best, took);
    }
    return best;
}

static int64_t isa_trial(const struct cpu_path *path, enum dtype held)
{
    const struct cpu_mm *mm = path->held[held];
    size_t bytes = (size_t)ISA_TRIAL_ROWS * ISA_TRIAL_K * sizeof(float) +
                   layout_bytes(held, ISA_TRIAL_N, ISA_TRIAL_K) +
                   mm->x_bytes(ISA_TRIAL_ROWS, ISA_TRIAL_K) +
                   (size_t)ISA_TRIAL_ROWS * ISA_TRIAL_N * sizeof(float);
    void *memory;
    if (mem_pages_alloc(bytes, &memory, NULL) != 0) {
        return INT64_MAX;
    }
    int64_t sum = isa_trial_pass(mm, held, 1, memory);
    sum += isa_trial_pass(mm, held, ISA_TRIAL_ROWS, memory);
    mem_pages_free(memory, bytes);
    return sum;
}

/* The fastest path measured; held f32 has nothing above AVX-512. */
static const struct cpu_path *isa_fastest(enum dtype held)
{
    enum kern_isa last = held == DTYPE_BF16 ? KERN_ISA_AMX : KERN_ISA_AVX512;
    const struct cpu_path *best = cpu_isa_path(KERN_ISA_PORTABLE, false);
    int64_t best_ns = INT64_MAX;
    const char *missing;
    for (enum kern_isa isa = KERN_ISA_AVX2; isa <= last; isa++) {
        if (!cpu_isa_is_present(isa, &missing)) {
            continue;
        }
        const struct cpu_path *path = cpu_isa_path(isa, false);
        int64_t took = isa_trial(path, held);
        if (best_ns == INT64_MAX || took < best_ns / 100 * ISA_TRIAL_PERCENT) {
            best = path;
            best_ns = took;
        }
    }
    return best;
}

int cpu_isa_choose(const struct kern_open *args, const struct cpu_path **out, struct err *err)
{
    const char *missing;
    ASSERT(args->held == DTYPE_BF16 || args->held == DTYPE_F32);
    if (args->isa == KERN_ISA_AUTO) {
        *out = isa_fastest(args->held);
        return 0;
    }
    if (args->is_stand_in && args->isa >= KERN_ISA_AVX512BF16) {
        *out = cpu_isa_path(args->isa, true);
        return 0;
    }
    if (!cpu_isa_is_present(args->isa, &missing)) {
        return err_set(err, ERR_INVALID_PARAMETER,
                       "could not use instruction set \"%s\": this machine has no %s",
                       kern_isa_word(args->isa), missing);
    }
    *out = cpu_isa_path(args->isa, false);
    return 0;
}
