/* Scale effects (effect.h) on the device: a row's factor, and those of a group's outputs. */
#ifndef KERNELS_CUDA_LINEAR_SCALE_H
#define KERNELS_CUDA_LINEAR_SCALE_H

#include <stddef.h>

#include "kernels/cuda/linear_expand.h"

/* Where the tile's version has its vectors at a site; zeros where it has none. */
static DEV effect_scale scale_at(const cuda_tile &tile, uint32_t site)
{
    uint2 table = ld8(LD_ADAPTER, tile.block + offsetof(effect_block, scale_at));
    uint64_t at = table.x | static_cast<uint64_t>(table.y) << 32;
    if (at == 0) {
        return {0, 0};
    }
    uint4 v = ld16(LD_ADAPTER, tile.block + at + site * sizeof(effect_scale));
    return {v.x | static_cast<uint64_t>(v.y) << 32, v.z | static_cast<uint64_t>(v.w) << 32};
}

/* What element i is times: 1 for a row that the tile does not have. `bit`: of the row in its pass.
 */
static DEV float scale_factor(const cuda_step *step, const cuda_tile &tile, uint64_t at, uint32_t i,
                              uint32_t bit)
{
    if (at == 0 || !(tile.mask >> bit & 1)) {
        return 1;
    }
    uint32_t j = (uint32_t)__popc(tile.mask & ((1u << bit) - 1));
    float weight = step->seg_rows[tile.seg_row + j].weight;
    const float *v = reinterpret_cast<const float *>(tile.block + at);
    return weight * f32_of_bits(ld4(LD_ADAPTER, v + i)) + (1 - weight);
}

/* An element is one thread's for all tiles, which come in segment order. Only a group of gate and
 * up is of two sites. */
static DEV void finish_scales(const linear_job &job, const linear_out &out,
                              const linear_tiles &tiles)
{
    uint32_t site = linear_place_of(job, out.group, 0).site;
    uint32_t other = job.op.post == KERN_POST_ACT_MUL ? 1 : site;
    for (uint32_t i = 0; i < tiles.n; i++) {
        const cuda_tile &tile = job.step->tiles[tiles.first + i];
        if (linear_tile_pass(job, tiles, i) != out.token_first / CUDA_PASS_ROWS) {
            continue;
        }
        uint64_t at = scale_at(tile, job.op.sites[site].site).out_at;
        uint64_t other_at = scale_at(tile, job.op.sites[other].site).out_at;
        for (uint32_t e = threadIdx.x; e < job.group_rows * out.tile_tokens; e += LINEAR_THREADS) {
            uint32_t token = e % out.tile_tokens;
            linear_place p = linear_place_of(job, out.group, e / out.tile_tokens);
            if (p.row != UINT32_MAX) {
                uint32_t bit = (out.token_first + token) % CUDA_PASS_ROWS;
                out.y[e / out.tile_tokens * out.pitch + token] *=
                    scale_factor(job.step, tile, p.site == site ? at : other_at, p.row, bit);
            }
        }
    }
    __syncthreads();
}

#endif
