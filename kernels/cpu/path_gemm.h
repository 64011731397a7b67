/* The fp32 product with fused multiply-adds, written once over `struct vec`.
 *
 * Order: every output element is one chain, acc = fma(x[k], w[k], acc) for k = 0, 1, 2, ..., that
 * starts from 0 or from what out holds. Packed rows are fp32, [block][k tile][row][k in tile].
 * A source defines GEMM_ROWS (rows of a full block) and GEMM_WIDE (rows up to which both column
 * tiles are done at once) to fit its registers. Bound: memory up to about 16 rows, math beyond. */
#ifndef KERNELS_CPU_PATH_GEMM_H
#define KERNELS_CPU_PATH_GEMM_H

#include "kernels/cpu/layout.h"
#include "kernels/cpu/path.h"
#include "kernels/cpu/path_gemm_rows.h"
#include "kernels/cpu/path_pack.h"

#define GEMM_CASE(rows, wide)                                                                      \
    case rows:                                                                                     \
        gemm_rows(g, b, rows, wide, row_k);                                                        \
        break;

#ifdef CPU_ROLLED

static inline void gemm_narrow(const struct cpu_gemm *g, const struct gemm_block *b, uint32_t rows,
                               uint32_t row_k)
{
    gemm_rows(g, b, rows, 1, row_k);
}

static inline void gemm_wide(const struct cpu_gemm *g, const struct gemm_block *b, uint32_t rows,
                             uint32_t row_k)
{
    gemm_rows(g, b, rows, 2, row_k);
}

#else

static ALWAYS_INLINE void gemm_narrow(const struct cpu_gemm *g, const struct gemm_block *b,
                                      uint32_t rows, uint32_t row_k)
{
    switch (rows) {
        GEMM_CASE(1, 1)
        GEMM_CASE(2, 1)
        GEMM_CASE(3, 1)
        GEMM_CASE(4, 1)
#if GEMM_ROWS > 4
        GEMM_CASE(5, 1)
        GEMM_CASE(6, 1)
#endif
#if GEMM_ROWS > 6
        GEMM_CASE(7, 1)
        GEMM_CASE(8, 1)
        GEMM_CASE(9, 1)
        GEMM_CASE(10, 1)
        GEMM_CASE(11, 1)
        GEMM_CASE(12, 1)
#endif
    default:
        break;
    }
}

static ALWAYS_INLINE void gemm_wide(const struct cpu_gemm *g, const struct gemm_block *b,
                                    uint32_t rows, uint32_t row_k)
{
    switch (rows) {
        GEMM_CASE(1, 2)
#if GEMM_WIDE > 1
        GEMM_CASE(2, 2)
        GEMM_CASE(3, 2)
#endif
#if GEMM_WIDE > 3
        GEMM_CASE(4, 2)
        GEMM_CASE(5, 2)
        GEMM_CASE(6, 2)
        GEMM_CASE(7, 2)
        GEMM_CASE(8, 2)
        GEMM_CASE(9, 2)
        GEMM_CASE(10, 2)
        GEMM_CASE(11, 2)
        GEMM_CASE(12, 2)
#endif
    default:
        break;
    }
}

#endif

static GEMM_INLINE void gemm_run(const struct cpu_gemm *g, uint32_t row_k)
{
    uint32_t tile_k = LAYOUT_TILE_ROWS * row_k;
    uint32_t k_padded = ROUND_UP(g->k, tile_k);
    uint32_t block_n = DIV_UP(g->row_n, (uint32_t)GEMM_ROWS);
    for (uint32_t i = 0; i < block_n; i++) {
        uint32_t first = cpu_block_first(g->row_n, GEMM_ROWS, i);
        uint32_t rows = cpu_block_first(g->row_n, GEMM_ROWS, i + 1) - first;
        struct gemm_block b = {(const float *)g->x + (size_t)first * k_padded, first, 0, i,
                               block_n};
        if (g->tile_n == 2 && rows <= GEMM_WIDE) {
            gemm_wide(g, &b, rows, row_k);
            continue;
        }
        for (; b.tile_first < g->tile_n; b.tile_first++) {
            gemm_narrow(g, &b, rows, row_k);
        }
    }
}

static inline void gemm_run_bf16(const struct cpu_gemm *g)
{
    gemm_run(g, 2);
}

static inline void gemm_run_f32(const struct cpu_gemm *g)
{
    gemm_run(g, 1);
}

/* bf16 rows on bf16 tiles, fp32 rows on bf16 tiles, fp32 rows on f32 tiles. */
#define GEMM_TABLE                                                                                 \
    {                                                                                              \
        {GEMM_ROWS, gemm_x_bytes_bf16, gemm_pack_bf16, gemm_run_bf16},                             \
            {GEMM_ROWS, gemm_x_bytes_bf16, gemm_pack_f32_for_bf16, gemm_run_bf16},                 \
        {                                                                                          \
            GEMM_ROWS, gemm_x_bytes_f32, gemm_pack_f32, gemm_run_f32                               \
        }                                                                                          \
    }

#endif
