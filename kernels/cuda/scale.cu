/* Scale effects on a linear's inputs: a launch of its own, in steps that have such an effect only.
 * A block per row; memory-bound, a row of 16-bit x and its vectors are read once, the row written.
 */
#include "kernels/cuda/held.h"
#include "kernels/cuda/linear_scale.h"
#include "kernels/cuda/ops.h"

#define SCALE_THREADS 128

/* A vector that the row's inputs are times. */
struct scale_vector {
    uint64_t at; /* in the tile's block */
    uint32_t tile;
};

template <class T>
static __global__ void scale_rows(const cuda_step *step, T *x, uint32_t k, uint32_t site,
                                  unsigned *saturated)
{
    pdl_wait();
    uint32_t row = blockIdx.x;
    if (row >= step->row_n) {
        return;
    }
    SHARED(scale_vector, vectors, [LIMIT_REQUEST_ADAPTERS]);
    SHARED(uint32_t, vector_n, [1]);
    uint32_t pass = row / CUDA_PASS_ROWS;
    uint32_t bit = row % CUDA_PASS_ROWS;
    T *to = x + (size_t)row * k;
    if (threadIdx.x == 0) {
        uint32_t n = 0;
        for (uint32_t t = step->tile_first[pass]; t < step->tile_first[pass + 1]; t++) {
            const cuda_tile &tile = step->tiles[t];
            uint64_t at = tile.mask >> bit & 1 ? scale_at(tile, site).in_at : 0;
            if (at != 0) {
                vectors[n++] = {at, t};
            }
        }
        vector_n[0] = n;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; vector_n[0] > 0 && i < k; i += SCALE_THREADS) {
        float v = to_f32(to[i]);
        for (uint32_t j = 0; j < vector_n[0]; j++) {
            v *= scale_factor(step, step->tiles[vectors[j].tile], vectors[j].at, i, bit);
        }
        to[i] = held_of<T>(saturated, v);
    }
    pdl_trigger();
}

void cuda_scale_rows(const struct cuda_ctx *ctx, const struct kern_linear *op)
{
    launch_cfg cfg = {dim3(ctx->row_cap), dim3(SCALE_THREADS), 0, false, ctx->stream};
    uint32_t site = op->sites[0].site;
    if (ctx->held == DTYPE_BF16) {
        launch(cfg, scale_rows<bf16>, ctx->step, static_cast<bf16 *>(op->x), op->k, site,
               static_cast<unsigned *>(nullptr));
    } else {
        launch(cfg, scale_rows<f16>, ctx->step, static_cast<f16 *>(op->x), op->k, site,
               ctx->saturated);
    }
}
