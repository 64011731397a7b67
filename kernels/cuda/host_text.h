/* A device in words, for those who print one. */
#ifndef KERNELS_CUDA_HOST_TEXT_H
#define KERNELS_CUDA_HOST_TEXT_H

#include <stdio.h>

#include "kernels/cuda/host.h"

#define DEV_TEXT_BYTES 512

static inline void dev_info_text(const struct dev_info *info, char out[DEV_TEXT_BYTES])
{
    snprintf(
        out, DEV_TEXT_BYTES,
        "%s, compute capability %u.%u, %u SMs at %.2f GHz, %.1f GB at %.2f GHz (%.1f GB free), "
        "driver for CUDA %u.%u",
        info->name, info->major, info->minor, info->sm_n, info->clock_khz * 1e-6,
        (double)info->memory_bytes * 1e-9, info->memory_clock_khz * 1e-6,
        (double)info->free_bytes * 1e-9, info->driver_version / 1000,
        info->driver_version % 1000 / 10);
}

#endif
