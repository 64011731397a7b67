/* Packing and unpacking of the layout, element by element; the fast paths never come here. */
#include "kernels/cpu/layout.h"

#include <string.h>

#include "kernels/kern.h"

static float layout_source(const struct kern_matrix *src, size_t at)
{
    if (src->dtype == DTYPE_F32) {
        return ((const float *)src->data)[at];
    }
    uint16_t half = ((const uint16_t *)src->data)[at];
    return src->dtype == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

/* One column of one k tile: `at` is its first element, rows follow 64 bytes apart. */
static void layout_pack_bf16(const struct kern_matrix *src, size_t from, uint32_t k_n, char *at)
{
    for (uint32_t k = 0; k < k_n; k++) {
        uint16_t value = src->dtype == DTYPE_BF16 ? ((const uint16_t *)src->data)[from + k]
                                                  : bf16_from_f32(layout_source(src, from + k));
        memcpy(at + (size_t)(k / 2) * LAYOUT_ROW_BYTES + k % 2 * sizeof value, &value,
               sizeof value);
    }
    if (k_n % 2) {
        memset(at + (size_t)(k_n / 2) * LAYOUT_ROW_BYTES + sizeof(uint16_t), 0, sizeof(uint16_t));
    }
}

static void layout_pack_f32(const struct kern_matrix *src, size_t from, uint32_t k_n, char *at)
{
    for (uint32_t k = 0; k < k_n; k++) {
        float value = layout_source(src, from + k);
        memcpy(at + (size_t)k * LAYOUT_ROW_BYTES, &value, sizeof value);
    }
}

void layout_pack_group(enum dtype held, const struct kern_matrix *src, void *out, uint32_t group)
{
    uint32_t tile_k = layout_tile_k(held);
    uint32_t tile_n = layout_tile_n(src->n, group);
    uint32_t column_first = group * LAYOUT_GROUP;
    for (uint32_t k = 0; k < src->k; k += tile_k) {
        uint32_t k_n = MIN(tile_k, src->k - k);
        for (uint32_t c = column_first; c < column_first + tile_n * 16; c++) {
            /* the layout of the padded matrix: columns beyond n exist and are zeros */
            char *at = (char *)out + layout_at(held, src->n, src->k, c, k);
            if (c >= src->n) {
                for (uint32_t r = 0; r < layout_rows(held, k_n); r++) {
                    memset(at + (size_t)r * LAYOUT_ROW_BYTES, 0, 4);
                }
            } else if (held == DTYPE_BF16) {
                layout_pack_bf16(src, (size_t)c * src->k + k, k_n, at);
            } else {
                layout_pack_f32(src, (size_t)c * src->k + k, k_n, at);
            }
        }
    }
}

void layout_read_column(enum dtype held, const void *w, uint32_t n, uint32_t k, uint32_t column,
                        float *out)
{
    for (uint32_t i = 0; i < k; i++) {
        const char *at = (const char *)w + layout_at(held, n, k, column, i);
        if (held == DTYPE_BF16) {
            uint16_t half;
            memcpy(&half, at, sizeof half);
            out[i] = bf16_to_f32(half);
        } else {
            memcpy(&out[i], at, sizeof out[i]);
        }
    }
}
