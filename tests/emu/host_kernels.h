/* Kernels for the tests of the emulated device's host half: as small as their faults allow. */
#ifndef TESTS_EMU_HOST_KERNELS_H
#define TESTS_EMU_HOST_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/host.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a step leaves in mapped memory: the number last. */
struct host_result {
    uint64_t number;
    uint32_t token;
};

/* out[i] = in[i] * by for i < n. */
void host_scale(struct dev_stream *stream, float *out, const float *in, float by, uint32_t n);

/* The same, asking for that much dynamic shared memory and that block. */
void host_scale_as(struct dev_stream *stream, float *out, uint32_t block, size_t smem);

/* out->token = *token, then out->number = number. */
void host_publish(struct dev_stream *stream, struct host_result *out, const uint32_t *token,
                  uint64_t number);

/* Ends when *is_over, which is mapped memory, is not 0. */
void host_hold(struct dev_stream *stream, const uint32_t *is_over);

#ifdef __cplusplus
}
#endif

#endif
