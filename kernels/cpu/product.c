/* One column group of a product at a time, for linear and head. */
#include <string.h>

#include "kernels/cpu/cpu_int.h"

#define PRODUCT_PACK_ALONE (64u << 10) /* elements below which waking the team does not pay */

struct product_pack {
    const struct cpu_mm *mm;
    const struct cpu_pack *pack;
};

static void product_pack_block(void *arg, uint32_t index, uint32_t member)
{
    const struct product_pack *job = arg;
    (void)member;
    job->mm->pack(job->pack, index);
}

void cpu_pack_rows(struct kern_dev *dev, const struct cpu_pack *pack)
{
    struct product_pack job = {dev->path->held[dev->args.held], pack};
    uint32_t block_n = DIV_UP(pack->row_n, job.mm->row_block);
    if ((uint64_t)pack->row_n * pack->k >= PRODUCT_PACK_ALONE) {
        team_each(dev->team, block_n, product_pack_block, &job);
        return;
    }
    for (uint32_t b = 0; b < block_n; b++) {
        product_pack_block(&job, b, 0);
    }
}

struct cpu_gemm cpu_product_begin(struct kern_dev *dev, const struct cpu_product *product,
                                  uint32_t group, const void *next)
{
    enum dtype held = dev->args.held;
    uint32_t tile_n = layout_tile_n(product->n, group);
    bool fits = group * LAYOUT_GROUP + tile_n * 16 <= product->out_n;
    struct cpu_gemm gemm = {
        .x = dev->x,
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
