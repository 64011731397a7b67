/* Paged KV in the packed layout: a page's keys are a [64 positions, head_dim] matrix, its values a
 * [head_dim, 64] one, so that attention is two of the products every path has.
 *
 * [layer][page][K of every KV head, then V of every KV head]. Two positions share a pair of bf16
 * values; a row whose pair partner is not in the step clears it, because the product multiplies it
 * by 0 and what an earlier owner of the page left there may not be a number. */
#include <string.h>

#include "kernels/cpu/cpu_int.h"

static size_t kv_k_bytes(enum dtype held, const struct kern_kv *kv)
{
    return layout_bytes(held, LIMIT_KV_PAGE, kv->head_dim);
}

static size_t kv_v_bytes(enum dtype held, const struct kern_kv *kv)
{
    return layout_bytes(held, kv->head_dim, LIMIT_KV_PAGE);
}

static size_t kv_page_bytes(enum dtype held, const struct kern_kv *kv)
{
    return kv->kv_head_n * (kv_k_bytes(held, kv) + kv_v_bytes(held, kv));
}

size_t cpu_kv_bytes(enum dtype held, const struct kern_kv *kv)
{
    return (size_t)kv->layer_n * kv->page_n * kv_page_bytes(held, kv);
}

char *cpu_kv_k(const struct kern_dev *dev, uint32_t layer, uint32_t page, uint32_t head)
{
    enum dtype held = dev->args.held;
    size_t at = ((size_t)layer * dev->kv.page_n + page) * kv_page_bytes(held, &dev->kv);
    return dev->kv_memory + at + head * kv_k_bytes(held, &dev->kv);
}

char *cpu_kv_v(const struct kern_dev *dev, uint32_t layer, uint32_t page, uint32_t head)
{
    enum dtype held = dev->args.held;
    return cpu_kv_k(dev, layer, page, 0) + dev->kv.kv_head_n * kv_k_bytes(held, &dev->kv) +
           head * kv_v_bytes(held, &dev->kv);
}

static void kv_put(enum dtype held, char *at, float value)
{
    if (held == DTYPE_BF16) {
        uint16_t half = bf16_from_f32(value);
        memcpy(at, &half, sizeof half);
    } else {
        memcpy(at, &value, sizeof value);
    }
}

void cpu_kv_write(struct kern_dev *dev, const struct kern_heads *heads, uint32_t row,
                  const float *k, const float *v)
{
    enum dtype held = dev->args.held;
    uint32_t dim = heads->head_dim;
    uint32_t in_page = dev->step.rows[row].pos % LIMIT_KV_PAGE;
    if (dev->row_page[row] == UINT32_MAX) {
        return;
    }
    bool has_partner = held == DTYPE_BF16 && in_page % 2 == 0 && dev->is_row_last[row];
    for (uint32_t h = 0; h < heads->kv_head_n; h++) {
        char *k_page = cpu_kv_k(dev, heads->kv_layer, dev->row_page[row], h);
        char *v_page = cpu_kv_v(dev, heads->kv_layer, dev->row_page[row], h);
        for (uint32_t d = 0; d < dim; d++) {
            kv_put(held, k_page + layout_at(held, LIMIT_KV_PAGE, dim, in_page, d), k[h * dim + d]);
            char *at = v_page + layout_at(held, dim, LIMIT_KV_PAGE, d, in_page);
            kv_put(held, at, v[h * dim + d]);
            if (has_partner) {
                kv_put(held, at + sizeof(uint16_t), 0);
            }
        }
    }
}
