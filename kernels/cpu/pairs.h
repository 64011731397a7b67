/* Rows of bf16 as they go into dot-product instructions: [block][k tile][row][64 bytes], that is 16
 * pairs of a row at a time, zeros behind K. With blocks of 16 rows a k tile is what AMX loads. */
#ifndef KERNELS_CPU_PAIRS_H
#define KERNELS_CPU_PAIRS_H

#include <string.h>

#include "kernels/cpu/layout.h"
#include "kernels/cpu/path.h"

/* Packs rows [first, first + n) of pack->rows into a block of `height` >= n rows. */
static inline void pairs_pack(const struct cpu_pack *pack, uint32_t first, uint32_t n,
                              uint32_t height, char *out)
{
    const uint32_t tile_k = 32;
    for (uint32_t k = 0; k < pack->k; k += tile_k) {
        uint32_t bytes = MIN(tile_k, pack->k - k) * sizeof(uint16_t);
        for (uint32_t r = 0; r < height; r++) {
            uint32_t filled = r < n ? bytes : 0;
            if (filled > 0) {
                size_t row = pack->rows ? pack->rows[first + r] : first + r;
                memcpy(out, (const uint16_t *)pack->src + row * pack->stride + k, filled);
            }
            if (filled < LAYOUT_ROW_BYTES) {
                memset(out + filled, 0, LAYOUT_ROW_BYTES - filled);
            }
            out += LAYOUT_ROW_BYTES;
        }
    }
}

/* Bytes of `rows` packed rows. */
static inline size_t pairs_bytes(size_t rows, uint32_t k)
{
    return rows * DIV_UP(k, 32u) * LAYOUT_ROW_BYTES;
}

#endif
