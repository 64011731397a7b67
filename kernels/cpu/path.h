/* What an instruction set provides: matrix products over the packed layout, and row functions.
 *
 * A product multiplies packed rows (`struct cpu_mm`'s own form, made by pack) with one column group
 * of a packed matrix (layout.h). Rows are cut into blocks of at most row_block rows; the bits of a
 * row do not depend on the block it lies in. Everything is pure: any member of the team, no heap.
 */
#ifndef KERNELS_CPU_PATH_H
#define KERNELS_CPU_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "kernels/cpu/recurrent.h"
#include "kernels/kern.h"

/* Rows on their way into the form of a product. */
struct cpu_pack {
    const void *src;
    size_t stride;        /* elements from row to row */
    const uint32_t *rows; /* which rows of src, in order; NULL = 0, 1, 2, ... */
    uint32_t row_n;
    uint32_t k;
    void *out; /* x_bytes(row_n, k), aligned to 64 */
};

/* out[row][0 .. 16 * tile_n) = or += x W' for one column group. */
struct cpu_gemm {
    const void *x; /* packed rows */
    const void *w; /* the group's first tile */
    uint32_t row_n;
    uint32_t k;           /* inputs to sum over */
    uint32_t k_layout;    /* inputs the matrix was packed with, >= k */
    uint32_t tile_n;      /* column tiles of the group: 1 or 2 */
    float *out;           /* whole tiles are written */
    size_t stride;        /* floats from row to row of out */
    const uint32_t *rows; /* which rows of out; NULL = 0, 1, 2, ... */
    bool is_add;          /* the sum starts from what out holds */
    const void *next;     /* what will be read after this group, or NULL */
};

struct cpu_mm {
    uint32_t row_block;
    size_t (*x_bytes)(uint32_t row_n, uint32_t k);
    void (*pack)(const struct cpu_pack *pack,
                 uint32_t block); /* block < DIV_UP(row_n, row_block) */
    void (*run)(const struct cpu_gemm *gemm);
};

/* h += m0 * p0 + m1 * p1, x = held(rms_norm(h) * gain); p0 or p1 may be NULL, from the back. */
struct cpu_join_row {
    float *h;
    const float *p0;
    const float *p1;
    float m0;
    float m1;
    const float *gain;
    float eps;
    uint32_t n;
    void *x;
};

/* One page of online softmax: turns 64 scores into weights (0 behind `valid`), moves the running
 * maximum and sum, returns what to multiply earlier sums by. */
struct cpu_softmax {
    float *s;
    uint32_t valid;
    float scale;
    float *largest;
    float *sum;
};

/* Scale vectors of one row with their weights: element i is times the product of
 * weight v[i] + (1 - weight). */
struct cpu_factors {
    const float *v[LIMIT_REQUEST_ADAPTERS];
    float weight[LIMIT_REQUEST_ADAPTERS];
    uint32_t n;
};

struct cpu_rows {
    void (*join)(enum dtype held, const struct cpu_join_row *row);
    /* out = held(silu(factor * gate) * up) */
    void (*act_mul)(enum dtype held, const float *gate, float factor, const float *up, uint32_t n,
                    void *out);
    void (*gate)(float *x, const float *gate, uint32_t n); /* x *= sigmoid(gate) */
    void (*to_held)(enum dtype held, const float *x, float factor, uint32_t n, void *out);
    void (*add)(float *x, const float *y, uint32_t n);
    void (*scale)(float *x, float factor, uint32_t n);
    void (*scale_by)(float *x, const float *v, float weight, uint32_t n);
    void (*scale_held)(enum dtype held, void *x, const struct cpu_factors *factors, uint32_t n);
    void (*norm)(float *x, const float *gain, float eps, uint32_t n);
    void (*rope)(float *x, const float *cos_sin, uint32_t half); /* cos [half], then sin [half] */
    float (*softmax)(const struct cpu_softmax *page);
    float (*lse)(const float *logits, uint32_t n);
};

struct cpu_path {
    enum kern_isa isa;
    const struct cpu_mm *held[DTYPE_N];  /* x of the held type */
    const struct cpu_mm *exact[DTYPE_N]; /* x in fp32, matrix of the held type */
    const struct cpu_rows *rows;
    const struct cpu_recurrent *recurrent;
};

/* First row of block b when row_n rows are cut into blocks of nearly equal height. */
static inline uint32_t cpu_block_first(uint32_t row_n, uint32_t row_block, uint32_t b)
{
    uint32_t block_n = (row_n + row_block - 1) / row_block;
    return (uint32_t)((uint64_t)row_n * b / block_n);
}

/* The paths compiled into this program. */
extern const struct cpu_path cpu_path_portable;       /* fmaf from libm where the target has none */
extern const struct cpu_path cpu_path_portable_fused; /* the same source with FMA instructions */
extern const struct cpu_path cpu_path_avx2;
extern const struct cpu_path cpu_path_avx512;
extern const struct cpu_path cpu_path_avx512bf16;
extern const struct cpu_path cpu_path_amx;
extern const struct cpu_path cpu_path_avx512bf16_stand_in;
extern const struct cpu_path cpu_path_avx512bf16_stand_in_fused;
extern const struct cpu_path cpu_path_amx_stand_in;
extern const struct cpu_path cpu_path_amx_stand_in_fused;

/* Row functions and fp32 products that other paths share. */
extern const struct cpu_rows cpu_rows_portable, cpu_rows_portable_fused, cpu_rows_avx512;
extern const struct cpu_mm cpu_mm_portable[3], cpu_mm_portable_fused[3], cpu_mm_avx512[3];

#endif
