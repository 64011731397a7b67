/* The packed weight layout: one for every instruction set, for weights, low-rank factors and KV.
 *
 *   matrix = groups of 32 columns (outputs), one after the other; the last may be 16 wide
 *   group  = k tiles in order of k, each for its 2 (or 1) column tiles in turn
 *   tile   = 16 rows of 64 bytes; fewer in the last k tile when K ends there
 *   row    = bf16: 16 columns x 2 consecutive k      f32: 16 columns x 1 k
 *
 * A full tile is 1 KiB and is what AMX loads. N is padded to 16 and bf16 K to 2, with zeros;
 * nothing else is padded, so a group's tiles are one stream of bytes. */
#ifndef KERNELS_CPU_LAYOUT_H
#define KERNELS_CPU_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/dtype.h"

struct kern_matrix;

#define LAYOUT_TILE_ROWS  16u
#define LAYOUT_TILE_BYTES 1024u
#define LAYOUT_ROW_BYTES  64u
#define LAYOUT_GROUP      32u /* columns */

/* Values of k in one 64-byte row, and in a full tile. */
static inline uint32_t layout_row_k(enum dtype held)
{
    return held == DTYPE_BF16 ? 2 : 1;
}

static inline uint32_t layout_tile_k(enum dtype held)
{
    return LAYOUT_TILE_ROWS * layout_row_k(held);
}

/* 64-byte rows per column tile. */
static inline uint32_t layout_rows(enum dtype held, uint32_t k)
{
    return DIV_UP(k, layout_row_k(held));
}

static inline uint32_t layout_group_n(uint32_t n)
{
    return DIV_UP(n, LAYOUT_GROUP);
}

/* Column tiles of a group. */
static inline uint32_t layout_tile_n(uint32_t n, uint32_t group)
{
    return MIN(DIV_UP(n - group * LAYOUT_GROUP, 16u), 2u);
}

static inline const void *layout_group(enum dtype held, const void *w, uint32_t k, uint32_t group)
{
    size_t bytes = (size_t)layout_rows(held, k) * 2 * LAYOUT_ROW_BYTES;
    return (const char *)w + group * bytes;
}

static inline size_t layout_bytes(enum dtype held, uint32_t n, uint32_t k)
{
    return (size_t)DIV_UP(n, 16u) * layout_rows(held, k) * LAYOUT_ROW_BYTES;
}

/* Byte offset of element (column, k) of a packed [n, k_all] matrix. */
static inline size_t layout_at(enum dtype held, uint32_t n, uint32_t k_all, uint32_t column,
                               uint32_t k)
{
    uint32_t row = k / layout_row_k(held);
    uint32_t group = column / LAYOUT_GROUP;
    uint32_t tile_n = layout_tile_n(n, group);
    uint32_t tile = row / LAYOUT_TILE_ROWS;
    uint32_t tile_rows = MIN(LAYOUT_TILE_ROWS, layout_rows(held, k_all) - tile * LAYOUT_TILE_ROWS);
    size_t at = (size_t)group * layout_rows(held, k_all) * 2 * LAYOUT_ROW_BYTES;
    at += (size_t)tile * tile_n * LAYOUT_TILE_BYTES;
    at += (size_t)(column % LAYOUT_GROUP / 16) * tile_rows * LAYOUT_ROW_BYTES;
    at += (size_t)(row % LAYOUT_TILE_ROWS) * LAYOUT_ROW_BYTES;
    return at + (held == DTYPE_BF16 ? (column % 16 * 2 + k % 2) * sizeof(uint16_t)
                                    : column % 16 * sizeof(float));
}

/* Packs one column group of src; `out` is the whole packed matrix. */
void layout_pack_group(enum dtype held, const struct kern_matrix *src, void *out, uint32_t group);

/* Reads one column (a row of the checkpoint's tensor) back as fp32. */
void layout_read_column(enum dtype held, const void *w, uint32_t n, uint32_t k, uint32_t column,
                        float *out);

#endif
