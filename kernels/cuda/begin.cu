/* What a part of a step begins and ends with: page tables and angles before its ops, and results to
 * the host after the last part. */
#include "kernels/cuda/block.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/publish.h"
#include "kernels/fmath.h"

/* A block per row: its angles. Page changes are dealt to all threads of the grid. */
static __global__ void begin_part(const cuda_step *step, cuda_kv kv, float *rope,
                                  const float *inv_freq, uint32_t half, float scale)
{
    pdl_wait();
    uint32_t stride = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < step->change_n; i += stride) {
        cuda_page_change change = step->changes[i];
        kv.page_table[(size_t)change.slot * kv.page_stride + change.entry] = change.page;
    }
    uint32_t row = blockIdx.x;
    if (row < step->row_n) {
        float *out = rope + (size_t)row * half * 2;
        for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
            float sine;
            float cosine;
            fmath_sincos((float)step->rows[row].pos * inv_freq[i], &sine, &cosine);
            out[2 * i] = cosine * scale;
            out[2 * i + 1] = sine * scale;
        }
    }
    pdl_trigger();
}

void cuda_begin(const struct cuda_ctx *ctx)
{
    launch_cfg cfg = {dim3(ctx->row_cap), dim3(128), 0, false, ctx->stream};
    launch(cfg, begin_part, ctx->step, ctx->kv, ctx->rope, ctx->inv_freq, ctx->rotary_n / 2,
           ctx->rope_scale);
}

/* Records first, the step's number last, so that who sees the number sees the records. One block.
 */
static __global__ void publish(const kern_token *results, uint32_t n, kern_token *out,
                               uint64_t *number, uint64_t step, const unsigned *saturated,
                               uint64_t *out_saturated)
{
    const uint32_t *from = reinterpret_cast<const uint32_t *>(results);
    uint32_t *to = reinterpret_cast<uint32_t *>(out);
    pdl_wait();
    for (uint32_t i = threadIdx.x; i < n * (sizeof *out / 4); i += blockDim.x) {
        to[i] = from[i];
    }
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) {
        *out_saturated = *saturated;
        publish_u64(number, step);
    }
    pdl_trigger();
}

void cuda_publish(const struct cuda_ctx *ctx, const struct cuda_results *r)
{
    launch_cfg cfg = {dim3(1), dim3(BLOCK_THREADS), 0, false, ctx->stream};
    launch(cfg, publish, r->results, r->n, r->out, r->number, r->step, ctx->saturated,
           r->saturated);
}
