/* How a step's results reach the host: a kernel writes them into mapped memory. */
#ifndef KERNELS_CUDA_PUBLISH_H
#define KERNELS_CUDA_PUBLISH_H

#include "kernels/cuda/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_results {
    const struct kern_token *results; /* device [n] */
    uint32_t n;
    struct kern_token *out; /* mapped [n] */
    uint64_t *number;       /* mapped: becomes `step` when everything else is there */
    uint64_t *saturated;    /* mapped: ctx->saturated at that time */
    uint64_t step;
};

void cuda_publish(const struct cuda_ctx *ctx, const struct cuda_results *results);

#ifdef __cplusplus
}
#endif

#endif
