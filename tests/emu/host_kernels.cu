/* Kernels for the tests of the emulated device's host half. They run on the emulation only. */
#include "kernels/cuda/dev.h"
#include "tests/emu/host_kernels.h"

#define SCALE_THREADS 64u

static __global__ void scale(float *out, const float *in, float by, uint32_t n)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = in[i] * by;
    }
}

/* The host polls the number while this runs: an atomic store, so that the race build knows. */
static __global__ void publish(host_result *out, const uint32_t *token, uint64_t number)
{
    out->token = *token;
    __atomic_store_n(&out->number, number, __ATOMIC_RELEASE);
}

static __global__ void hold(const uint32_t *is_over)
{
    while (__atomic_load_n(is_over, __ATOMIC_ACQUIRE) == 0) {
    }
}

void host_scale(struct dev_stream *stream, float *out, const float *in, float by, uint32_t n)
{
    launch_cfg cfg = {dim3((n + SCALE_THREADS - 1) / SCALE_THREADS), dim3(SCALE_THREADS), 0, false,
                      stream};
    launch(cfg, scale, out, in, by, n);
}

void host_scale_as(struct dev_stream *stream, float *out, uint32_t block, size_t smem)
{
    launch_cfg cfg = {dim3(1), dim3(block), smem, false, stream};
    launch(cfg, scale, out, static_cast<const float *>(out), 1.0f, 1u);
}

void host_publish(struct dev_stream *stream, struct host_result *out, const uint32_t *token,
                  uint64_t number)
{
    launch_cfg cfg = {dim3(1), dim3(1), 0, false, stream};
    launch(cfg, publish, out, token, number);
}

void host_hold(struct dev_stream *stream, const uint32_t *is_over)
{
    launch_cfg cfg = {dim3(1), dim3(1), 0, false, stream};
    launch(cfg, hold, is_over);
}
