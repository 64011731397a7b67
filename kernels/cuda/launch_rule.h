/* What a launch may do unasked: overlap the end of the one before it, use shared memory. Rules of
 * numbers, apart from CUDA so that they are tested without a device. */
#ifndef KERNELS_CUDA_LAUNCH_RULE_H
#define KERNELS_CUDA_LAUNCH_RULE_H

#include <stdbool.h>
#include <stddef.h>

/* Programmatic dependent launch needs a device of compute capability 9.0 and code that was compiled
 * for 9.0 or newer: code for an older one holds no wait, and would run ahead of what it reads. What
 * counts is the code that was really loaded, so `ptx_version` (90 = 9.0) is the kernel's own, as
 * the driver tells: an older PTX may have been compiled for a newer device. */
static inline bool launch_may_overlap(int device_major, int ptx_version)
{
    return device_major >= 9 && ptx_version >= 90;
}

/* Bytes of dynamic shared memory that a kernel's launches may have before more was asked for with
 * cudaFuncAttributeMaxDynamicSharedMemorySize: what its static ones leave of the 48 KiB that every
 * device gives a block. */
static inline size_t launch_shared_free(size_t static_bytes)
{
    const size_t block_bytes = 48u << 10;
    return static_bytes < block_bytes ? block_bytes - static_bytes : 0;
}

#endif
