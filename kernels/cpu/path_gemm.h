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
#include "kernels/cpu/path_pack.h"
#include "kernels/cpu/vec.h"

#ifdef CPU_ROLLED
#define GEMM_INLINE inline
#else
#define GEMM_INLINE ALWAYS_INLINE
#endif

struct gemm_block {
    const float *x;
    uint32_t row_first;
    uint32_t tile_first;
    uint32_t part; /* of parts: this block prefetches every parts-th k tile of `next` */
    uint32_t part_n;
};

static ALWAYS_INLINE float *gemm_out(const struct cpu_gemm *g, const struct gemm_block *b,
                                     uint32_t r)
{
    uint32_t row = b->row_first + r;
    return g->out + (g->rows ? g->rows[row] : row) * g->stride + b->tile_first * 16;
}

/* The tile to prefetch while tile t is multiplied: a little ahead when the matrix is read once,
 * a share of the next group when several row blocks pass over this one. */
static ALWAYS_INLINE const char *gemm_ahead(const struct cpu_gemm *g, const struct gemm_block *b,
                                            const char *w, uint32_t t, uint32_t tile_all)
{
    size_t tile_bytes = (size_t)g->tile_n * LAYOUT_TILE_BYTES;
    if (b->part_n == 1) {
        return t + 1 >= tile_all && g->next ? g->next : w + tile_bytes;
    }
    return g->next && t % b->part_n == b->part ? (const char *)g->next + t * tile_bytes : w;
}

/* One 64-byte row of each column tile against R rows of x: the innermost step. */
static GEMM_INLINE void gemm_step(struct vec *acc, const float *x, const char *w, size_t tile,
                                  const uint32_t shape[3])
{
    const uint32_t rows = shape[0];
    const uint32_t wide = shape[1];
    const uint32_t row_k = shape[2];
    struct vec even[2];
    struct vec odd[2];
    VEC_UNROLL
    for (uint32_t c = 0; c < wide; c++) {
        const char *at = w + c * tile;
        even[c] = row_k == 2 ? vec_even(at) : vec_load((const float *)at);
        odd[c] = row_k == 2 ? vec_odd(at) : even[c];
    }
    VEC_UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        struct vec value = vec_set1(x[r * LAYOUT_TILE_ROWS * row_k]);
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            acc[r * wide + c] = vec_fma(value, even[c], acc[r * wide + c]);
        }
    }
    if (row_k == 2) {
        VEC_UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            struct vec value = vec_set1(x[r * LAYOUT_TILE_ROWS * row_k + 1]);
            VEC_UNROLL
            for (uint32_t c = 0; c < wide; c++) {
                acc[r * wide + c] = vec_fma(value, odd[c], acc[r * wide + c]);
            }
        }
    }
}

static GEMM_INLINE void gemm_rows(const struct cpu_gemm *g, const struct gemm_block *b,
                                  uint32_t rows, uint32_t wide, uint32_t row_k)
{
    const uint32_t shape[3] = {rows, wide, row_k};
    const uint32_t row_all = DIV_UP(g->k_layout, row_k);
    const uint32_t row_used = DIV_UP(g->k, row_k);
    const uint32_t tile_all = DIV_UP(row_used, LAYOUT_TILE_ROWS);
    const char *w = g->w;
    const float *x = b->x;
    struct vec acc[GEMM_ROWS * 2];
    VEC_UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            acc[r * wide + c] = g->is_add ? vec_load(gemm_out(g, b, r) + c * 16) : vec_set1(0.0f);
        }
    }
    for (uint32_t t = 0; t < tile_all; t++) {
        uint32_t in_layout = MIN(LAYOUT_TILE_ROWS, row_all - t * LAYOUT_TILE_ROWS);
        uint32_t in_use = MIN(LAYOUT_TILE_ROWS, row_used - t * LAYOUT_TILE_ROWS);
        size_t tile = (size_t)in_layout * LAYOUT_ROW_BYTES;
        const char *at = w + b->tile_first * tile;
        const char *ahead = gemm_ahead(g, b, w, t, tile_all);
        for (uint32_t i = 0; i < in_use; i++) {
            __builtin_prefetch(ahead);
            __builtin_prefetch(ahead + LAYOUT_TILE_BYTES);
            gemm_step(acc, x + i * row_k, at, tile, shape);
            at += LAYOUT_ROW_BYTES;
            ahead += LAYOUT_ROW_BYTES;
        }
        w += g->tile_n * tile;
        x += rows * LAYOUT_TILE_ROWS * row_k;
    }
    VEC_UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        VEC_UNROLL
        for (uint32_t c = 0; c < wide; c++) {
            vec_store(gemm_out(g, b, r) + c * 16, acc[r * wide + c]);
        }
    }
}

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
