/* Rounding to the held type. */
#ifndef KERNELS_CUDA_HELD_H
#define KERNELS_CUDA_HELD_H

#include "kernels/cuda/dev.h"

/* Counts what had to be saturated, where there is a counter: with f16. */
template <class T> static DEV T held_of(unsigned *saturated, float v)
{
    if (saturated && (v > 65504.0f || v < -65504.0f)) {
        atomicAdd(saturated, 1u);
    }
    return from_f32<T>(v);
}

#endif
