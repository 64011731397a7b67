/* The residual: embed and join. A block per row; memory-bound, each element read and written once
 * or twice: a row's h (fp32), its part (fp32) and x (16 bits). */
#include "kernels/cuda/block.h"
#include "kernels/cuda/ops.h"

template <class T>
static __global__ void embed(const cuda_step *step, kern_embed op, uint32_t stride,
                             const uint32_t *slot_token)
{
    pdl_wait();
    uint32_t row = blockIdx.x;
    if (row >= step->row_n) {
        return;
    }
    cuda_row r = step->rows[row];
    uint32_t token = r.flags & KERN_ROW_FROM_SLOT ? slot_token[r.slot] : r.token;
    const T *w = static_cast<const T *>(op.w) + (size_t)token * stride;
    float *h = op.h + (size_t)row * op.hidden;
    for (uint32_t i = threadIdx.x * 8; i < op.hidden; i += blockDim.x * 8) {
        T v[8];
        uint4 raw = ld16(LD_WEIGHT, w + i);
        memcpy(v, &raw, sizeof v);
        for (uint32_t j = 0; j < 8 && i + j < op.hidden; j++) {
            h[i + j] = to_f32(v[j]) * op.multiplier;
        }
    }
    pdl_trigger();
}

void cuda_embed(const struct cuda_ctx *ctx, const struct kern_embed *op)
{
    launch_cfg cfg = {dim3(ctx->row_cap), dim3(128), 0, false, ctx->stream};
    uint32_t stride = cuda_stride(op->hidden);
    if (ctx->held == DTYPE_BF16) {
        launch(cfg, embed<bf16>, ctx->step, *op, stride, ctx->slot_token);
    } else {
        launch(cfg, embed<f16>, ctx->step, *op, stride, ctx->slot_token);
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK_THREADS) join(const cuda_step *step, kern_join op)
{
    pdl_wait();
    uint32_t row = blockIdx.x;
    if (row >= step->row_n) {
        return;
    }
    float *h = op.h + (size_t)row * op.hidden;
    const float *p0 = static_cast<const float *>(op.parts[0]) + (size_t)row * op.hidden;
    const float *p1 = static_cast<const float *>(op.parts[1]) + (size_t)row * op.hidden;
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < op.hidden; i += BLOCK_THREADS) {
        float v = h[i];
        if (op.part_n > 0) {
            float sum = op.multipliers[0] * p0[i];
            v += op.part_n > 1 ? sum + op.multipliers[1] * p1[i] : sum;
            h[i] = v;
        }
        squares += v * v;
    }
    squares = block_reduce<block_add>(squares);
    float scale = 1.0f / sqrtf(squares / (float)op.hidden + op.eps);
    T *x = static_cast<T *>(op.x) + (size_t)row * op.hidden;
    for (uint32_t i = threadIdx.x; i < op.hidden; i += BLOCK_THREADS) {
        x[i] = from_f32<T>(h[i] * scale * op.gain[i]);
    }
    pdl_trigger();
}

void cuda_join(const struct cuda_ctx *ctx, const struct kern_join *op)
{
    launch_cfg cfg = {dim3(ctx->row_cap), dim3(BLOCK_THREADS), 0, false, ctx->stream};
    if (ctx->held == DTYPE_BF16) {
        launch(cfg, join<bf16>, ctx->step, *op);
    } else {
        launch(cfg, join<f16>, ctx->step, *op);
    }
}
