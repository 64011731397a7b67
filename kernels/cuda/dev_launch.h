/* The CUDA half of launch(). Include dev.h, never this. */
#ifndef KERNELS_CUDA_DEV_LAUNCH_H
#define KERNELS_CUDA_DEV_LAUNCH_H

#ifndef __CUDACC__
#error "the CUDA half is for nvcc"
#endif

#include <type_traits>

#define LAUNCH_ARGS_MAX    4096 /* bytes of kernel arguments */
#define LAUNCH_SHARED_FREE (48u << 10)
#define LAUNCH_PDL_PTX     90 /* the first PTX version whose kernels hold PDL instructions */

extern "C" {
/* host_cuda.c: the stream behind ours, whether it may use PDL, and the first failure kept. */
cudaStream_t dev_stream_raw(struct dev_stream *stream);
bool dev_has_pdl(void);
void dev_note(cudaError_t code, const char *what);
}

/* Whether the loaded code of a kernel knows PDL, and its right to much shared memory: asked once
 * per kernel. `kernel` is the key: one instance for each, whatever their signatures share. */
static inline bool launch_prepare(const void *kernel, const char *name, size_t smem)
{
    cudaFuncAttributes attributes;
    cudaError_t rc = cudaFuncGetAttributes(&attributes, kernel);
    if (rc != cudaSuccess) {
        dev_note(rc, name);
        return false;
    }
    if (smem > LAUNCH_SHARED_FREE && (size_t)attributes.maxDynamicSharedSizeBytes < smem) {
        dev_note(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem),
            name);
    }
    return dev_has_pdl() && attributes.ptxVersion >= LAUNCH_PDL_PTX;
}

template <class... P, class... A>
static inline void launch_named(const char *name, const launch_cfg &cfg, void (*kernel)(P...),
                                A... args)
{
    static_assert((std::is_trivially_copyable<P>::value && ...), "arguments are plain data");
    static_assert((sizeof(P) + ... + 0) <= LAUNCH_ARGS_MAX, "arguments take at most 4 KiB");
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    bool is_pdl = launch_prepare(reinterpret_cast<const void *>(kernel), name, cfg.smem);
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
