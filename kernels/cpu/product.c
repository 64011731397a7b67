/* One column group of a product at a time, for linear and head. */
#include <string.h>

#include "kernels/cpu/cpu_int.h"

#define PRODUCT_BAND_BYTES (512u << 10) /* of packed rows: they stay in L2 beside a group */
#define PRODUCT_BAND_UNIT  48u          /* whole blocks of every path */

struct product_pack {
    struct kern_dev *dev;
    const struct cpu_pack *pack;
    uint32_t band_rows;
};

uint32_t cpu_band_rows(const struct kern_dev *dev, uint32_t k)
{
    size_t row = dev->path->held[dev->args.held]->x_bytes(PRODUCT_BAND_UNIT, k) / PRODUCT_BAND_UNIT;
    size_t rows = PRODUCT_BAND_BYTES / row / PRODUCT_BAND_UNIT * PRODUCT_BAND_UNIT;
    return (uint32_t)MIN(MAX(rows, PRODUCT_BAND_UNIT), LIMIT_STEP_ROWS);
}

const void *cpu_packed_rows(const struct kern_dev *dev, uint32_t first, uint32_t k)
{
    return (const char *)dev->x + dev->path->held[dev->args.held]->x_bytes(first, k);
}

static void product_pack_band(void *arg, uint32_t index, uint32_t member)
{
    const struct product_pack *job = arg;
    const struct cpu_mm *mm = job->dev->path->held[job->dev->args.held];
    struct cpu_pack band = *job->pack;
    uint32_t first = index * job->band_rows;
    (void)member;
    band.row_n = MIN(job->band_rows, band.row_n - first);
    band.out = (char *)band.out + mm->x_bytes(first, band.k);
    if (band.rows) {
        band.rows += first;
    } else {
        band.src = (const char *)band.src + first * band.stride * dtype_bytes(job->dev->args.held);
    }
    for (uint32_t b = 0; b < DIV_UP(band.row_n, mm->row_block); b++) {
        mm->pack(&band, b);
    }
}

void cpu_pack_rows(struct kern_dev *dev, const struct cpu_pack *pack, uint32_t band_rows)
{
    struct product_pack job = {dev, pack, band_rows};
    ASSERT(pack->row_n <= band_rows || band_rows % PRODUCT_BAND_UNIT == 0);
    team_each(dev->team, DIV_UP(pack->row_n, band_rows), product_pack_band, &job);
}

struct cpu_gemm cpu_product_begin(struct kern_dev *dev, const struct cpu_product *product,
                                  uint32_t group, const void *next)
{
    enum dtype held = dev->args.held;
    uint32_t tile_n = layout_tile_n(product->n, group);
    bool fits = group * LAYOUT_GROUP + tile_n * 16 <= product->out_n;
    struct cpu_gemm gemm = {
        .x = product->x,
        .w = layout_group(held, product->w, product->k, group),
        .row_n = product->row_n,
        .k = product->k,
        .k_layout = product->k,
        .tile_n = tile_n,
        .out = fits ? product->out + group * LAYOUT_GROUP : product->spare,
        .stride = fits ? product->stride : LAYOUT_GROUP,
        .next = next,
    };
    dev->path->held[held]->run(&gemm);
    return gemm;
}

void cpu_product_end(const struct cpu_product *product, uint32_t group, const struct cpu_gemm *done)
{
    if (done->out != product->spare || product->out_n == 0) {
        return;
    }
    uint32_t first = group * LAYOUT_GROUP;
    uint32_t n = MIN(product->n - first, LAYOUT_GROUP);
    for (uint32_t r = 0; r < product->row_n; r++) {
        memcpy(product->out + r * product->stride + first, done->out + r * done->stride,
               n * sizeof(float));
    }
}
