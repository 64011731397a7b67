/* The AVX512_BF16 path: bf16 products by vdpbf16ps, everything else is AVX-512's.
 *
 * Order: every output element is one chain over pairs of k; within a pair the instruction takes the
 * odd product first. Compiled a second time as CPU_STAND_IN, the instruction is replaced by
 * stand_in.h and the rest by the portable path, whose bits are those of AVX-512. */
#include "kernels/cpu/pairs.h"
#include "kernels/cpu/path.h"

#define DP_ROWS 12u

#ifdef CPU_ROLLED
#define DP_INLINE inline
#else
#define DP_INLINE ALWAYS_INLINE
#endif

#ifdef CPU_STAND_IN

#include "kernels/cpu/stand_in.h"
#include "kernels/cpu/vec.h"

static ALWAYS_INLINE struct vec dp(struct vec acc, uint32_t x, const char *w)
{
    stand_in_dp(acc.f, x, w);
    return acc;
}

#else

#define CPU_VEC_AVX512
#include "kernels/cpu/vec.h"

static ALWAYS_INLINE struct vec dp(struct vec acc, uint32_t x, const char *w)
{
    __m512bh pairs = (__m512bh)_mm512_loadu_si512(w);
    return vec_of(_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_set1_epi32((int)x), pairs));
}

#endif

/* One block of rows against both (or the one) column tiles of a group. */
static DP_INLINE void dp_rows(const struct cpu_gemm *g, const char *x, uint32_t first,
                              uint32_t rows, uint32_t wide)
{
    const uint32_t row_all = DIV_UP(g->k_layout, 2u);
    const char *w = g->w;
    struct vec acc[DP_ROWS * 2];
    VEC_UNROLL
    for (uint32_t i = 0; i < rows * wide; i++) {
        acc[i] = vec_set1(0.0f);
    }
    for (uint32_t row = 0; row < row_all; row += LAYOUT_TILE_ROWS) {
        uint32_t row_n = MIN(LAYOUT_TILE_ROWS, row_all - row);
        size_t tile = (size_t)row_n * LAYOUT_ROW_BYTES;
        bool is_last = row + LAYOUT_TILE_ROWS >= row_all;
        const char *ahead = is_last && g->next ? g->next : w + wide * tile;
        for (uint32_t i = 0; i < row_n; i++) {
            __builtin_prefetch(ahead + i * LAYOUT_ROW_BYTES);
            __builtin_prefetch(ahead + LAYOUT_TILE_BYTES + i * LAYOUT_ROW_BYTES);
            VEC_UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t pair;
                memcpy(&pair, x + r * LAYOUT_ROW_BYTES + i * sizeof pair, sizeof pair);
                VEC_UNROLL
                for (uint32_t c = 0; c < wide; c++) {
                    const char *at = w + c * tile + i * LAYOUT_ROW_BYTES;
                    acc[r * wide + c] = dp(acc[r * wide + c], pair, at);
                }
            }
        }
        w += wide * tile;
        x += rows * LAYOUT_ROW_BYTES;
    }
    VEC_UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t row = first + r;
        float *out = g->out + (g->rows ? g->rows[row] : row) * g->stride;
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            vec_store(out + c * 16, acc[r * wide + c]);
        }
    }
}

#define DP_CASE(rows)                                                                              \
    case rows:                                                                                     \
        dp_rows(g, x, first, rows, wide);                                                          \
        break;

#ifdef CPU_ROLLED

static void dp_block(const struct cpu_gemm *g, const char *x, uint32_t first, uint32_t n,
                     uint32_t wide)
{
    dp_rows(g, x, first, n, wide);
}

#else

static ALWAYS_INLINE void dp_block(const struct cpu_gemm *g, const char *x, uint32_t first,
                                   uint32_t n, uint32_t wide)
{
    switch (n) {
        DP_CASE(1)
        DP_CASE(2)
        DP_CASE(3)
        DP_CASE(4)
        DP_CASE(5)
        DP_CASE(6)
        DP_CASE(7)
        DP_CASE(8)
        DP_CASE(9)
        DP_CASE(10)
        DP_CASE(11)
        DP_CASE(12)
    default:
        break;
    }
}

#endif

/* Never with is_add: what goes on from a sum is fp32 work (cpu_path.exact). */
static void dp_run(const struct cpu_gemm *g)
{
    ASSERT(!g->is_add && g->k == g->k_layout);
    for (uint32_t b = 0; b < DIV_UP(g->row_n, DP_ROWS); b++) {
        uint32_t first = cpu_block_first(g->row_n, DP_ROWS, b);
        uint32_t n = cpu_block_first(g->row_n, DP_ROWS, b + 1) - first;
        const char *x = (const char *)g->x + pairs_bytes(first, g->k);
        if (g->tile_n == 2) {
            dp_block(g, x, first, n, 2);
        } else {
            dp_block(g, x, first, n, 1);
        }
    }
}

static size_t dp_x_bytes(uint32_t row_n, uint32_t k)
{
    return pairs_bytes(row_n, k);
}

static void dp_pack(const struct cpu_pack *pack, uint32_t block)
{
    uint32_t first = cpu_block_first(pack->row_n, DP_ROWS, block);
    uint32_t n = cpu_block_first(pack->row_n, DP_ROWS, block + 1) - first;
    pairs_pack(pack, first, n, n, (char *)pack->out + pairs_bytes(first, pack->k));
}

static const struct cpu_mm dp_mm = {DP_ROWS, dp_x_bytes, dp_pack, dp_run};

#define DP_PATH(mm, row_table, recurrent_table)                                                    \
    {                                                                                              \
        .isa = KERN_ISA_AVX512BF16, .held = {[DTYPE_F32] = &(mm)[2], [DTYPE_BF16] = &dp_mm},       \
        .exact = {[DTYPE_F32] = &(mm)[2], [DTYPE_BF16] = &(mm)[1]}, .rows = &(row_table),          \
        .recurrent = &(recurrent_table),                                                           \
    }

#if !defined(CPU_STAND_IN)
const struct cpu_path cpu_path_avx512bf16 =
    DP_PATH(cpu_mm_avx512, cpu_rows_avx512, cpu_recurrent_avx512);
#elif defined(CPU_FUSED)
const struct cpu_path cpu_path_avx512bf16_stand_in_fused =
    DP_PATH(cpu_mm_portable_fused, cpu_rows_portable_fused, cpu_recurrent_portable_fused);
#else
const struct cpu_path cpu_path_avx512bf16_stand_in =
    DP_PATH(cpu_mm_portable, cpu_rows_portable, cpu_recurrent_portable);
#endif
