/* What the threads of one block find together. Every thread calls these at the same point and gets
 * the result; the order of every sum is fixed: within a thread as called, lanes by halves, warps
 * ascending. BLOCK_THREADS threads. */
#ifndef KERNELS_CUDA_BLOCK_H
#define KERNELS_CUDA_BLOCK_H

#include "kernels/cuda/dev.h"

#define BLOCK_THREADS 256
#define BLOCK_WARPS   (BLOCK_THREADS / 32)

struct block_add {
    template <class V> static DEV V of(V a, V b)
    {
        return a + b;
    }
};

struct block_least {
    template <class V> static DEV V of(V a, V b)
    {
        return b < a ? b : a;
    }
};

template <class F, class V> static DEV V block_reduce(V v)
{
    SHARED(V, part, [BLOCK_WARPS]);
    for (int step = 16; step > 0; step /= 2) {
        v = F::of(v, __shfl_xor_sync(0xffffffffu, v, step));
    }
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = v;
    }
    __syncthreads();
    V all = part[0];
    for (int w = 1; w < BLOCK_WARPS; w++) {
        all = F::of(all, part[w]);
    }
    __syncthreads(); /* the next one writes part again */
    return all;
}

#endif
