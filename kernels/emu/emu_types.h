/* The emulation's half of dev.h: qualifiers, types and arithmetic. Include dev.h, never this. */
#ifndef KERNELS_EMU_EMU_TYPES_H
#define KERNELS_EMU_EMU_TYPES_H

#include <math.h>
#include <string.h>

#include "base/dtype.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define DEV    inline
#define UNROLL /* the host's compilers unroll as they like */
#define NO_UNROLL

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return {x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y)
{
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

/* Storage. */
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

static inline float to_f32(bf16 v)
{
    return bf16_to_f32(v.bits);
}
static inline float to_f32(f16 v)
{
    return f16_to_f32(v.bits);
}
template <class T> static inline T from_f32(float f);
template <> inline bf16 from_f32<bf16>(float f)
{
    return {bf16_from_f32(f)};
}
template <> inline f16 from_f32<f16>(float f)
{
    return {f16_from_f32(f > 65504.0f ? 65504.0f : f < -65504.0f ? -65504.0f : f)};
}
template <class T> static inline uint32_t pack2(float a, float b)
{
    return (uint32_t)from_f32<T>(a).bits | (uint32_t)from_f32<T>(b).bits << 16;
}

/* Arithmetic. */
template <class V> static inline V min(V a, V b)
{
    return b < a ? b : a;
}
template <class V> static inline V max(V a, V b)
{
    return a < b ? b : a;
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}
static inline unsigned __brev(unsigned v)
{
    unsigned out = 0;
    for (int i = 0; i < 32; i++) {
        out |= (v >> i & 1) << (31 - i);
    }
    return out;
}
static inline unsigned __float_as_uint(float f)
{
    return f32_bits(f);
}
static inline float __uint_as_float(unsigned u)
{
    return f32_of_bits(u);
}
#define rsqrtf emu_rsqrtf /* a later libm may have one */
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float fast_exp(float x)
{
    return expf(x);
}

#endif
