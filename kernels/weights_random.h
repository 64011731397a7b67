/* Random weights: what --weights random:SEED serves in place of a checkpoint, for benches of shapes
 * that cannot be carried about.
 *
 * A value is a pure function of (seed, tensor name, index in the row-major tensor): an odd integer
 * of [-255, 255] times a power of two that depends on the tensor's inputs. So it is exact in bf16,
 * f16 and f32, equal on every backend, and any element can be made alone. Products with inputs near
 * 1 stay near 1. The mixer is that of kernels/random.h; eight neighbours share a mixed word. */
#ifndef KERNELS_WEIGHTS_RANDOM_H
#define KERNELS_WEIGHTS_RANDOM_H

#include "kernels/random.h"

/* A matrix [n, k] to be made. */
struct weights_random {
    uint64_t key; /* weights_random_key of its name */
    uint32_t n;
    uint32_t k;
    float unit; /* a power of two */
};

/* FNV-1a of the name, mixed with the seed. */
static inline uint64_t weights_random_key(uint64_t seed, const char *name)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *name; name++) {
        hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    }
    return kern_mix64(kern_mix64(seed + 0x9E3779B97F4A7C15u) + hash);
}

/* The largest power of two with which k products of such a value and an input of variance 1 have a
 * sum of variance 1 at most; the integers' variance is (256^2 - 1) / 3. */
static inline float weights_random_unit(uint32_t k)
{
    float unit = 1.0f;
    for (uint64_t variance = (uint64_t)21845 * k; variance > 1; variance = (variance + 3) / 4) {
        unit *= 0.5f;
    }
    return unit;
}

/* Odd, -255 to 255. */
BOTH_INLINE int32_t weights_random_integer(uint64_t key, uint64_t index)
{
    uint64_t word = kern_mix64(key + (index / 8) * 0x9E3779B97F4A7C15u);
    return 2 * (int32_t)(word >> (index % 8 * 8) & 255) - 255;
}

BOTH_INLINE float weights_random_value(const struct weights_random *w, uint64_t index)
{
    return (float)weights_random_integer(w->key, index) * w->unit;
}

/* Gain i of a norm: a multiple of 2^-6 in [0.89, 1.11]. */
static inline float weights_random_gain(uint64_t key, uint64_t index)
{
    int32_t step_n = weights_random_integer(key, index) / 32;
    return 1.0f + (float)step_n * 0.015625f;
}

/* Entry i of a bias: of standard deviation 0.036. */
static inline float weights_random_bias(uint64_t key, uint64_t index)
{
    return (float)weights_random_integer(key, index) * 0.000244140625f;
}

#endif
