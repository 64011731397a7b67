/* The words a kernel file may use: the one header of device code.
 *
 * Under nvcc they are CUDA (dev_nvcc.h), else the emulation (kernels/emu), which declares the same
 * ones. Both halves provide:
 *
 * CUDA's own: threadIdx, blockIdx, blockDim, gridDim, dim3, __launch_bounds__, __align__; uint2,
 *   uint4, float2, float4 and make_...; __syncthreads, __syncwarp, __shfl_sync, __shfl_xor_sync,
 *   __shfl_up_sync, __shfl_down_sync (4 or 8 bytes, the whole warp's width), __ballot_sync,
 *   __any_sync, __all_sync; atomicAdd (int, unsigned, unsigned long long), atomicMax, atomicMin,
 *   atomicOr, atomicExch, atomicInc; __popc, __ffs, __clz, __brev, __float_as_uint,
 *   __uint_as_float; min, max; math.h in float, and rsqrtf; __threadfence, __threadfence_system.
 * Qualifiers: DEV before a device function, UNROLL or NO_UNROLL before a loop.
 * Storage: bf16, f16; to_f32(v), from_f32<T>(f) (rounds to nearest even; f16 saturates),
 *   pack2<T>(a, b) -> uint32_t (a in the low half).
 * Shared memory: SHARED(type, name, dims) and DYN_SHARED(type, name), aligned to 16 bytes.
 * Launch: launch(cfg, kernel, args...) with struct launch_cfg.
 * Tensor cores: mma<T>(d[4], a[4], b[2]): m16n8k16, fp32 sums; ldmatrix_x4(r[4], smem),
 *   ldmatrix_x4_trans(r[4], smem).
 * Copies: cp_async16(smem, global, bytes: 16 or fewer, the rest becomes 0), cp_async_commit(),
 *   cp_async_wait<N>() (all but the N newest groups have arrived). What is not committed before
 *   the wait is not waited for; nothing may be under way at the kernel's end.
 * Loads: ld16(class, p) -> uint4, ld8 -> uint2, ld4 -> uint32_t; class LD_WEIGHT (streamed: no L1,
 *   evicted first), LD_ADAPTER, LD_KV, LD_STATE (recurrent states: slots' and
 *   adapters'); ld_count(class, bytes) for what cp_async16 brings.
 * Maths: fast_exp(x): e^x for x <= 0, within 2 + 1.2 |x| ulp.
 * Between blocks: flag_signal(p), flag_wait(p, n), flag_join(p, n) -> true for the last of n (then
 *   the counter is 0 again), ticket_next(p, unit_n, stride): the next unit, unit_n or more when
 *   there is none left; blocks whose index agrees modulo stride draw from one counter. Flags and
 *   tickets are called by one thread between two __syncthreads.
 * Overlap: pdl_wait(), once in every thread of a kernel launched with is_pdl; pdl_trigger(), not
 *   before pdl_wait. */
#ifndef KERNELS_CUDA_DEV_H
#define KERNELS_CUDA_DEV_H

#ifndef __cplusplus
#error "device code is C++"
#endif

#include <stddef.h>
#include <stdint.h>

struct dev_stream; /* kernels/cuda/host.h */

enum ld_class { LD_WEIGHT, LD_ADAPTER, LD_KV, LD_STATE, LD_CLASS_N };

#ifdef __CUDACC__
#include "kernels/cuda/dev_nvcc.h"
#else
#include "kernels/emu/emu_dev.h"
#endif

/* grid and block as CUDA has them; smem: bytes of dynamic shared memory; is_pdl: may overlap the
 * end of the launch before it (compute capability 9.0 and a kernel compiled for it, else plain). */
struct launch_cfg {
    dim3 grid;
    dim3 block;
    size_t smem;
    bool is_pdl;
    struct dev_stream *stream;
};

/* Never fails at the call: an error is sticky on the stream and surfaces at dev_stream_sync. */
#define launch(cfg, kernel, ...) launch_named(#kernel, cfg, kernel, __VA_ARGS__)

#ifdef __CUDACC__
#include "kernels/cuda/dev_launch.h"
#else
#include "kernels/emu/emu_launch.h"
#endif

#endif
