/* When a launch may overlap the end of the one before it: a rule of two numbers, apart from CUDA so
 * that it is tested without a device. */
#ifndef KERNELS_CUDA_LAUNCH_RULE_H
#define KERNELS_CUDA_LAUNCH_RULE_H

#include <stdbool.h>

/* Programmatic dependent launch needs a device of compute capability 9.0 and code that was compiled
 * for 9.0 or newer: code for an older one holds no wait, and would run ahead of what it reads. What
 * counts is the code that was really loaded, so `ptx_version` (90 = 9.0) is the kernel's own, as
 * the driver tells: an older PTX may have been compiled for a newer device. */
static inline bool launch_may_overlap(int device_major, int ptx_version)
{
    return device_major >= 9 && ptx_version >= 90;
}

#endif
