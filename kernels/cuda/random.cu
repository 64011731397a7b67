/* Random weights, made where they stay: one launch writes a whole held matrix, its padding too.
 * Bound by the bytes it writes. */
#include "kernels/cuda/block.h"
#include "kernels/cuda/ops.h"
#include "kernels/weights_random.h"

/* Each thread writes eight columns at a time. */
template <class T> static __global__ void random_fill(weights_random w, uint32_t stride, T *out)
{
    size_t chunk_n = (size_t)w.n * stride / 8;
    size_t step = (size_t)gridDim.x * blockDim.x;
    pdl_wait();
    for (size_t c = (size_t)blockIdx.x * blockDim.x + threadIdx.x; c < chunk_n; c += step) {
        size_t row = c * 8 / stride;
        uint32_t column = (uint32_t)(c * 8 % stride);
        uint32_t words[4];
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t at = column + 2 * i;
            uint64_t index = (uint64_t)row * w.k + at;
            float low = at < w.k ? weights_random_value(&w, index) : 0.0f;
            float high = at + 1 < w.k ? weights_random_value(&w, index + 1) : 0.0f;
            words[i] = pack2<T>(low, high);
        }
        *reinterpret_cast<uint4 *>(out + c * 8) =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
    pdl_trigger();
}

void cuda_random(struct dev_stream *stream, enum dtype held, uint32_t sm_n,
                 const struct weights_random *src, void *to_dev)
{
    uint32_t stride = cuda_stride(src->k);
    size_t chunk_n = (size_t)src->n * stride / 8;
    size_t block_n = (chunk_n + BLOCK_THREADS - 1) / BLOCK_THREADS;
    uint32_t grid = (uint32_t)(block_n < sm_n * 8u ? block_n : sm_n * 8u);
    launch_cfg cfg = {dim3(grid), dim3(BLOCK_THREADS), 0, false, stream};
    if (held == DTYPE_BF16) {
        launch(cfg, random_fill<bf16>, *src, stride, static_cast<bf16 *>(to_dev));
    } else {
        launch(cfg, random_fill<f16>, *src, stride, static_cast<f16 *>(to_dev));
    }
}
