/* Rows into the form of the fp32 product: [block][k tile][row][k in tile], zeros behind K.
 * A k tile of all rows of a block is contiguous, so that the product reads one stream and finds
 * every row at a constant offset. */
#ifndef KERNELS_CPU_PATH_PACK_H
#define KERNELS_CPU_PATH_PACK_H

#include <string.h>

#include "kernels/cpu/path.h"
#include "kernels/cpu/vec.h"

#ifndef GEMM_ROWS
#define GEMM_ROWS 4
#define GEMM_WIDE 1
#endif

static inline size_t gemm_x_bytes_bf16(uint32_t row_n, uint32_t k)
{
    return (size_t)row_n * ROUND_UP(k, 32u) * sizeof(float);
}

static inline size_t gemm_x_bytes_f32(uint32_t row_n, uint32_t k)
{
    return (size_t)row_n * ROUND_UP(k, 16u) * sizeof(float);
}

static ALWAYS_INLINE void gemm_pack(const struct cpu_pack *p, uint32_t block, enum dtype from,
                                    uint32_t tile_k)
{
    uint32_t first = cpu_block_first(p->row_n, GEMM_ROWS, block);
    uint32_t rows = cpu_block_first(p->row_n, GEMM_ROWS, block + 1) - first;
    uint32_t k_padded = ROUND_UP(p->k, tile_k);
    float *out = (float *)p->out + (size_t)first * k_padded;
    for (uint32_t r = 0; r < rows; r++) {
        size_t row = p->rows ? p->rows[first + r] : first + r;
        for (uint32_t k = 0; k < k_padded; k += VEC_N) {
            float *to = out + (size_t)(k / tile_k) * rows * tile_k + r * tile_k + k % tile_k;
            uint32_t left = k < p->k ? MIN(VEC_N, p->k - k) : 0;
            if (from == DTYPE_F32) {
                const float *at = (const float *)p->src + row * p->stride + k;
                vec_store(to, left == VEC_N ? vec_load(at) : vec_load_n(at, left));
                continue;
            }
            const uint16_t *at = (const uint16_t *)p->src + row * p->stride + k;
            uint16_t tail[VEC_N] = {0};
            if (left < VEC_N) {
                memcpy(tail, at, left * sizeof tail[0]);
                at = tail;
            }
            vec_store(to, vec_load_bf16(at));
        }
    }
}

static inline void gemm_pack_bf16(const struct cpu_pack *p, uint32_t block)
{
    gemm_pack(p, block, DTYPE_BF16, 32);
}

static inline void gemm_pack_f32_for_bf16(const struct cpu_pack *p, uint32_t block)
{
    gemm_pack(p, block, DTYPE_F32, 32);
}

static inline void gemm_pack_f32(const struct cpu_pack *p, uint32_t block)
{
    gemm_pack(p, block, DTYPE_F32, 16);
}

#endif
