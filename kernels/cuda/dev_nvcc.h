/* The CUDA half of dev.h. Include dev.h, never this. */
#ifndef KERNELS_CUDA_DEV_NVCC_H
#define KERNELS_CUDA_DEV_NVCC_H

#ifndef __CUDACC__
#error "the CUDA half is for nvcc"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

#define DEV       __device__ __forceinline__
#define UNROLL    _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")

#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define DYN_SHARED(type, name)                                                                     \
    extern __shared__ __align__(16) unsigned char dyn_shared_bytes[];                              \
    type *name = reinterpret_cast<type *>(dyn_shared_bytes)

static DEV float to_f32(bf16 v)
{
    return __bfloat162float(v);
}

static DEV float to_f32(f16 v)
{
    return __half2float(v);
}

template <class T> static DEV T from_f32(float f);

template <> DEV bf16 from_f32<bf16>(float f)
{
    return __float2bfloat16_rn(f);
}

template <> DEV f16 from_f32<f16>(float f)
{
    float limited = fminf(fmaxf(f, -65504.0f), 65504.0f);
    return __float2half_rn(f == f ? limited : f); /* a NaN stays one */
}

template <class T> static DEV uint32_t pack2(float a, float b)
{
    T pair[2] = {from_f32<T>(a), from_f32<T>(b)};
    uint32_t u;
    memcpy(&u, pair, sizeof u);
    return u;
}

template <class T> static DEV void mma(float d[4], const uint32_t a[4], const uint32_t b[2]);

template <> DEV void mma<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <> DEV void mma<f16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static DEV unsigned shared_address(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

static DEV void ldmatrix_x4(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}

static DEV void ldmatrix_x4_trans(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}

static DEV void cp_async16(void *to_shared, const void *from, unsigned bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

static DEV void cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static DEV void cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static DEV uint4 ld16(ld_class cls, const void *p)
{
    uint4 v;
    if (cls == LD_WEIGHT) {
        uint64_t policy; /* loads of 16 bytes take the L2's eviction order as a policy only */
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(p), "l"(policy));
    } else {
        asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "l"(p)
                     : "memory");
    }
    return v;
}

static DEV uint2 ld8(ld_class, const void *p)
{
    return *static_cast<const uint2 *>(p);
}

static DEV uint32_t ld4(ld_class, const void *p)
{
    return *static_cast<const uint32_t *>(p);
}

static DEV void ld_count(ld_class, unsigned)
{
}

static DEV float fast_exp(float x)
{
    return __expf(x);
}

static DEV void flag_signal(unsigned *p)
{
    asm volatile("fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}

static DEV void flag_wait(unsigned *p, unsigned n)
{
    unsigned seen;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(p) : "memory");
    } while ((int)(seen - n) < 0);
}

static DEV bool flag_join(unsigned *p, unsigned n)
{
    __threadfence();
    unsigned before = atomicInc(p, n - 1);
    __threadfence();
    return before == n - 1;
}

/* Units are dealt by one counter; the emulation deals them to several blocks on purpose. */
static DEV unsigned ticket_next(unsigned *p, unsigned unit_n, unsigned stride)
{
    (void)unit_n;
    (void)stride;
    return atomicAdd(p, 1u);
}

/* For the host: it sees the number after everything that this thread has seen. */
static DEV void publish_u64(uint64_t *p, uint64_t v)
{
    asm volatile("fence.acq_rel.sys; st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v)
                 : "memory");
}

static DEV void pdl_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static DEV void pdl_trigger(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
