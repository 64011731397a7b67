/* The random stream of sampling: counter-based, so that it depends on (seed, position) only and is
 * the same on every backend. The mixer is splitmix64's finaliser, applied twice over the counter.
 */
#ifndef KERNELS_RANDOM_H
#define KERNELS_RANDOM_H

#include <stdint.h>

#include "base/dtype.h"

BOTH_INLINE uint64_t kern_mix64(uint64_t z)
{
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1), a multiple of 2^-24. */
BOTH_INLINE float kern_random(uint64_t seed, uint32_t pos)
{
    uint64_t z = kern_mix64(kern_mix64(seed + 0x9E3779B97F4A7C15u) + pos * 0x9E3779B97F4A7C15u);
    return (float)(z >> 40) * 5.9604644775390625e-8f;
}

#endif
