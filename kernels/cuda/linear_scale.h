/* Scale effects (effect.h) on the device: a row's factor, and those of a group's outputs. */
#ifndef KERNELS_CUDA_LINEAR_SCALE_H
#define KERNELS_CUDA_LINEAR_SCALE_H

#include "kernels/cuda/linear_expand.h"

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

/* An element is one thread's for all tiles, which come in segment order. */
static DEV void finish_scales(const linear_job &job, const linear_out &out,
                              const linear_tiles &tiles)
{
    for (uint32_t i = 0; i < tiles.n; i++) {
        const cuda_tile &tile = job.step->tiles[tiles.first + i];
        if (linear_tile_pass(job, tiles, i) != out.token_first / CUDA_PASS_ROWS) {
            continue;
        }
        for (uint32_t e = threadIdx.x; e < job.group_rows * out.tile_tokens; e += LINEAR_THREADS) {
            uint32_t token = e % out.tile_tokens;
            linear_place p = linear_place_of(job, out.group, e / out.tile_tokens);
            const effect_scale *scale = effect_scale_at(tile.block, job.op.sites[p.site].site);
            if (scale && p.row != UINT32_MAX) {
                uint32_t bit = (out.token_first + token) % CUDA_PASS_ROWS;
                out.y[e / out.tile_tokens * out.pitch + token] *=
                    scale_factor(job.step, tile, scale->out_at, p.row, bit);
            }
        }
    }
    __syncthreads();
}

#endif
