/* One block of rows of the fp32 product against one or both column tiles of a group, over all k:
 * the innermost loops of path_gemm.h, which says the order. */
#ifndef KERNELS_CPU_PATH_GEMM_ROWS_H
#define KERNELS_CPU_PATH_GEMM_ROWS_H

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

/* The tile to prefetch while k tile t is multiplied: the next one (behind the last the next group)
 * or, when several row blocks pass over the group, this block's share of the next group. */
static ALWAYS_INLINE const char *gemm_ahead(const struct cpu_gemm *g, const struct gemm_block *b,
                                            const char *w, uint32_t t, uint32_t tile_all)
{
    size_t tile_bytes = (size_t)g->tile_n * LAYOUT_TILE_BYTES;
    if (g->next && b->part_n > 1 && t % b->part_n == b->part) {
        return (const char *)g->next + t * tile_bytes;
    }
    return g->next && t + 1 >= tile_all ? g->next : w + tile_bytes;
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

#endif
