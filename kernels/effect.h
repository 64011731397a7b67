/* Effects: the closed set of things an adapter can do to a model, as plain data.
 *
 * A version in device memory is one contiguous block: `struct effect_block`, then one
 * `struct effect_lowrank` per site of the model, then the packed factors at the offsets they name.
 * Offsets count from the block's start, so a block can be built anywhere and copied as bytes. The
 * factors are packed by the backend's own weight_pack, A as a [rank, in] and B as an [out, rank]
 * matrix, in the base's held type. Later effects add arrays behind the low-rank one; the block's
 * version number changes with its layout.
 *
 * Low rank (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732), at a linear site with adapters i:
 *     y += sum_i  w_i * scale_i * B_i (A_i x)        in fp32, in the request's order
 * u = A x is kept in fp32; w_i * scale_i multiplies u.
 *
 * Scale (IA3, arXiv 2205.05638): vectors c over a linear's inputs and o over its outputs, fp32:
 *     y = o * (W (c * x) + b) + low rank of (c * x),  c * x rounded to the held type
 * Of several adapters with weights w_i the factors multiply in the request's order, each as
 * w_i o_i + (1 - w_i). A c may stand only at a linear that shares its input with no other.
 *
 * State (S0 tuning, arXiv 2604.01168): the recurrent state that a sequence begins with, one for
 * each recurrent layer, scaled already, fp32, laid out as a slot's (kern_recurrent.h). */
#ifndef KERNELS_EFFECT_H
#define KERNELS_EFFECT_H

#include <stddef.h>
#include <stdint.h>

#define EFFECT_BLOCK_MAGIC   0x54464147u /* "GAFT" */
#define EFFECT_BLOCK_VERSION 2u
#define EFFECT_ALIGN         64 /* of factors within a block, and of blocks in the pool */
#define EFFECT_LOWRANK_AT    64 /* of the effect_lowrank array, in every block of this version */

struct effect_lowrank {
    uint32_t rank; /* 0: the site is untouched */
    float scale;   /* alpha / r, or alpha / sqrt(r) for rsLoRA */
    uint64_t a_at; /* byte offset of packed A */
    uint64_t b_at; /* byte offset of packed B */
};

struct effect_scale {
    uint64_t in_at;  /* byte offset of c [inputs]; 0 = none */
    uint64_t out_at; /* byte offset of o [outputs]; 0 = none */
};

struct effect_block {
    uint32_t magic;
    uint32_t version;
    uint64_t bytes;      /* of the whole block */
    uint32_t site_n;     /* = the model's */
    uint32_t lowrank_at; /* offset of the effect_lowrank array */
    uint64_t state_at;   /* byte offset of the first layer's state; 0 = the block has none */
    uint64_t scale_at; /* byte offset of the effect_scale array, aligned; 0 = the block has none */
    uint64_t state_n;  /* floats of a layer's state; the next one is effect_state_stride on */
};

static inline const struct effect_lowrank *effect_lowrank_at(const void *block, uint32_t site)
{
    const struct effect_block *b = (const struct effect_block *)block;
    return (const struct effect_lowrank *)((const char *)block + b->lowrank_at) + site;
}

/* NULL for a block without scales. */
static inline const struct effect_scale *effect_scale_at(const void *block, uint32_t site)
{
    const struct effect_block *b = (const struct effect_block *)block;
    const char *first = (const char *)block + b->scale_at;
    return b->scale_at == 0 ? NULL : (const struct effect_scale *)(const void *)first + site;
}

/* Bytes from one layer's state to the next. */
static inline uint64_t effect_state_stride(uint64_t state_n)
{
    return (state_n * sizeof(float) + EFFECT_ALIGN - 1) / EFFECT_ALIGN * EFFECT_ALIGN;
}

/* NULL for a block without states. */
static inline const float *effect_state_at(const void *block, uint32_t state_layer)
{
    const struct effect_block *b = (const struct effect_block *)block;
    const char *first = (const char *)block + b->state_at;
    return b->state_at == 0
               ? NULL
               : (const float *)(const void *)(first +
                                               state_layer * effect_state_stride(b->state_n));
}

#endif
