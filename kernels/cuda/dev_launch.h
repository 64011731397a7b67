/* The CUDA half of launch(). Include dev.h, never this. */
#ifndef KERNELS_CUDA_DEV_LAUNCH_H
#define KERNELS_CUDA_DEV_LAUNCH_H

#ifndef __CUDACC__
#error "the CUDA half is for nvcc"
#endif

#include <type_traits>

#define LAUNCH_ARGS_MAX 4096 /* bytes of kernel arguments */

extern "C" {
/* host_cuda.c: the stream behind ours; whether the kernel may overlap the launch before it, and its
 * right to so much shared memory, asked of CUDA once per kernel; the first failure kept. */
cudaStream_t dev_stream_raw(struct dev_stream *stream);
bool dev_prepare_launch(const void *kernel, const char *name, size_t smem);
void dev_note(cudaError_t code, const char *what);
}

template <class... P, class... A>
static inline void launch_named(const char *name, const launch_cfg &cfg, void (*kernel)(P...),
                                A... args)
{
    static_assert((std::is_trivially_copyable<P>::value && ...), "arguments are plain data");
    static_assert((sizeof(P) + ... + 0) <= LAUNCH_ARGS_MAX, "arguments take at most 4 KiB");
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    bool is_pdl = dev_prepare_launch(reinterpret_cast<const void *>(kernel), name, cfg.smem);
    config.gridDim = cfg.grid;
    config.blockDim = cfg.block;
    config.dynamicSmemBytes = cfg.smem;
    config.stream = dev_stream_raw(cfg.stream);
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = cfg.is_pdl && is_pdl ? 1 : 0;
    dev_note(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), name);
}

#endif
