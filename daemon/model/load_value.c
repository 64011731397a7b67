/* The scan over all weights: blocks are tested without a branch, a bad one is then looked through.
 *
 * A value is bad when the exponent bits that say "infinite or not a number" are all set, before or
 * after it is rounded to the held type. Only f32 to bf16 can overflow. */
#include "model/load_int.h"

#include "base/base.h"

#define LOAD_BLOCK 1024

float load_value(const void *data, enum dtype dtype, size_t i)
{
    switch (dtype) {
    case DTYPE_F16:
        return f16_to_f32(((const uint16_t *)data)[i]);
    case DTYPE_BF16:
        return bf16_to_f32(((const uint16_t *)data)[i]);
    default:
        return ((const float *)data)[i];
    }
}

/* True when a value of the block has every bit of the exponent mask set. */
static bool load_has_bad16(const uint16_t *v, size_t n, uint16_t mask)
{
    uint16_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad |= (uint16_t)((v[i] & mask) == mask);
    }
    return bad;
}

/* True when a magnitude reaches `limit`, the bits of the first f32 that is too large. */
static bool load_has_bad32(const uint32_t *v, size_t n, uint32_t limit)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad |= (uint32_t)((v[i] & 0x7FFFFFFFu) >= limit);
    }
    return bad;
}

size_t load_find_bad(const void *data, enum dtype dtype, size_t n, enum dtype held)
{
    uint16_t mask = dtype == DTYPE_F16 ? 0x7C00u : 0x7F80u;
    /* 0x7F7F8000: halfway between the largest bf16 and 2^128; a tie rounds to even, that is up */
    uint32_t limit = held == DTYPE_BF16 ? 0x7F7F8000u : 0x7F800000u;
    bool is_wide = dtype == DTYPE_F32;
    const uint16_t *v16 = data;
    const uint32_t *v32 = data;
    for (size_t at = 0; at < n; at += LOAD_BLOCK) {
        size_t block_n = MIN((size_t)LOAD_BLOCK, n - at);
        if (is_wide ? !load_has_bad32(v32 + at, block_n, limit)
                    : !load_has_bad16(v16 + at, block_n, mask)) {
            continue;
        }
        for (size_t i = at; i < at + block_n; i++) {
            if (is_wide ? load_has_bad32(v32 + i, 1, limit) : load_has_bad16(v16 + i, 1, mask)) {
                return i;
            }
        }
    }
    return n;
}
