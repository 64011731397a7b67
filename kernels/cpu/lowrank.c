/* Low-rank effects of a linear, per segment: u = A x (shrink), then y += B u (expand).
 *
 * Any rank per segment and site, any rows, several segments on one row; only effects with a rank do
 * work. Shrink runs on the team, a piece of at most CPU_CHUNK_ROWS rows at a time, and leaves u in
 * fp32, multiplied by weight * scale and packed for expand. Expand is called for one column group
 * while its sums are in cache and goes on with each sum's chain, in segment order. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/effect.h"

#define LOWRANK_PREFETCH_BYTES 4096u /* per effect and group, at most */

struct lowrank_job {
    struct kern_dev *dev;
    const struct kern_linear *op;
};

static size_t lowrank_u_stride(const struct kern_dev *dev, uint32_t rank)
{
    return ROUND_UP(rank, layout_tile_k(dev->args.held));
}

/* Cuts the rows of the newest effect into pieces, each within one band and one chunk. */
static void lowrank_cut(struct kern_dev *dev, const struct cpu_effect *e, uint32_t band_rows)
{
    struct cpu_piece *piece = NULL;
    for (uint32_t r = 0; r < e->row_n; r++) {
        uint32_t row = dev->seg_rows[e->row_first + r];
        uint32_t band = row / band_rows;
        dev->band_rows[e->row_first + r] = row - band * band_rows;
        if (!piece || piece->band != band || piece->n == CPU_CHUNK_ROWS) {
            piece = &dev->pieces[dev->piece_n++];
            *piece = (struct cpu_piece){dev->effect_n, band, r, 0};
        }
        piece->n++;
    }
}

/* Lists the effects of the step's segments at the sites of op, and their pieces. */
static void lowrank_plan(struct kern_dev *dev, const struct kern_linear *op)
{
    float *u = dev->u;
    uint32_t band_rows = cpu_band_rows(dev, op->k);
    dev->effect_n = 0;
    dev->piece_n = 0;
    for (uint32_t i = 0; i < dev->step.seg_n; i++) {
        const struct kern_seg *seg = &dev->step.segs[i];
        const void *block = dev->versions[seg->version];
        for (uint32_t s = 0; s < op->site_n; s++) {
            const struct effect_lowrank *lowrank = effect_lowrank_at(block, op->sites[s].site);
            if (lowrank->rank == 0) {
                continue;
            }
            struct cpu_effect *e = &dev->effects[dev->effect_n];
            *e = (struct cpu_effect){
                .a = (const char *)block + lowrank->a_at,
                .b = (const char *)block + lowrank->b_at,
                .scale = lowrank->scale,
                .rank = lowrank->rank,
                .site = s,
                .row_first = seg->row_first,
                .row_n = seg->row_n,
                .u = u,
            };
            lowrank_cut(dev, e, band_rows);
            dev->effect_n++;
            u += seg->row_n * lowrank_u_stride(dev, lowrank->rank);
        }
    }
    ASSERT((char *)u <= (const char *)dev->u + dev->u_bytes);
}

static void lowrank_shrink_piece(void *arg, uint32_t index, uint32_t member)
{
    const struct lowrank_job *job = arg;
    const struct kern_dev *dev = job->dev;
    enum dtype held = dev->args.held;
    const struct cpu_piece *piece = &dev->pieces[index];
    const struct cpu_effect *e = &dev->effects[piece->effect];
    const struct cpu_scratch *scratch = &dev->scratch[member];
    const struct cpu_mm *mm = dev->path->held[held];
    const struct cpu_mm *exact = dev->path->exact[held];
    uint32_t k = job->op->k;
    uint32_t row_first = e->row_first + piece->first;
    struct cpu_pack in = {job->op->x, k, dev->seg_rows + row_first, piece->n, k, scratch->x};
    for (uint32_t b = 0; b < DIV_UP(piece->n, mm->row_block); b++) {
        mm->pack(&in, b);
    }
    size_t stride = ROUND_UP(e->rank, 16u);
    for (uint32_t g = 0; g < layout_group_n(e->rank); g++) {
        mm->run(&(struct cpu_gemm){
            .x = scratch->x,
            .w = layout_group(held, e->a, k, g),
            .row_n = piece->n,
            .k = k,
            .k_layout = k,
            .tile_n = layout_tile_n(e->rank, g),
            .out = scratch->u + (size_t)g * LAYOUT_GROUP,
            .stride = stride,
        });
    }
    for (uint32_t r = 0; r < piece->n; r++) {
        float factor = dev->step.seg_rows[row_first + r].weight * e->scale;
        dev->path->rows->scale(scratch->u + r * stride, factor, e->rank);
    }
    float *u = e->u + piece->first * lowrank_u_stride(dev, e->rank);
    struct cpu_pack out = {scratch->u, stride, NULL, piece->n, e->rank, u};
    for (uint32_t b = 0; b < DIV_UP(piece->n, exact->row_block); b++) {
        exact->pack(&out, b);
    }
}

void cpu_lowrank_shrink(struct kern_dev *dev, const struct kern_linear *op)
{
    struct lowrank_job job = {dev, op};
    lowrank_plan(dev, op);
    team_each(dev->team, dev->piece_n, lowrank_shrink_piece, &job);
}

void cpu_lowrank_expand(struct kern_dev *dev, uint32_t site, uint32_t band, uint32_t n,
                        uint32_t group, const struct cpu_gemm *base)
{
    const struct cpu_mm *exact = dev->path->exact[dev->args.held];
    for (uint32_t i = 0; i < dev->piece_n; i++) {
        const struct cpu_piece *piece = &dev->pieces[i];
        const struct cpu_effect *e = &dev->effects[piece->effect];
        if (e->site != site || piece->band != band) {
            continue;
        }
        exact->run(&(struct cpu_gemm){
            .x = e->u + piece->first * lowrank_u_stride(dev, e->rank),
            .w = layout_group(dev->args.held, e->b, e->rank, group),
            .row_n = piece->n,
            .k = e->rank,
            .k_layout = e->rank,
            .tile_n = layout_tile_n(n, group),
            .out = base->out,
            .stride = base->stride,
            .rows = dev->band_rows + e->row_first + piece->first,
            .is_add = true,
        });
    }
}

void cpu_lowrank_prefetch(const struct kern_dev *dev, uint32_t site, uint32_t group)
{
    enum dtype held = dev->args.held;
    for (uint32_t i = 0; i < dev->effect_n; i++) {
        const struct cpu_effect *e = &dev->effects[i];
        if (e->site != site) {
            continue;
        }
        const char *at = layout_group(held, e->b, e->rank, group);
        size_t bytes = (size_t)layout_rows(held, e->rank) * 2 * LAYOUT_ROW_BYTES;
        for (size_t b = 0; b < MIN(bytes, LOWRANK_PREFETCH_BYTES); b += LAYOUT_ROW_BYTES) {
            __builtin_prefetch(at + b, 0, 2);
        }
    }
}
