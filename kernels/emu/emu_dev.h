/* The emulation's half of dev.h. Include dev.h, never this.
 *
 * Memory is touched here, in code that the sanitizers see, never in the emulator. */
#ifndef KERNELS_EMU_EMU_DEV_H
#define KERNELS_EMU_EMU_DEV_H

#include "kernels/emu/emu_sync.h"
#include "kernels/emu/emu_types.h"

static inline void emu_check_aligned(const void *p, size_t bytes, int line)
{
    if (reinterpret_cast<uintptr_t>(p) % bytes) {
        emu_die("an address that is not aligned to the access", line);
    }
}

/* Tensor cores: products exact in fp32, added in ascending k, each sum rounded once. */
void emu_mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool is_bf16, int line);

template <class T>
static inline void mma(float d[4], const uint32_t a[4], const uint32_t b[2],
                       int line = __builtin_LINE())
{
    emu_mma(d, a, b, std::is_same<T, bf16>::value, line);
}

void emu_ldmatrix(uint32_t r[4], const uint4 *row, bool is_trans, int line);

static inline void ldmatrix_x4(uint32_t r[4], const void *p, int line = __builtin_LINE())
{
    emu_check_aligned(p, 16, line);
    uint4 row = *static_cast<const uint4 *>(p);
    emu_ldmatrix(r, &row, false, line);
}
static inline void ldmatrix_x4_trans(uint32_t r[4], const void *p, int line = __builtin_LINE())
{
    emu_check_aligned(p, 16, line);
    uint4 row = *static_cast<const uint4 *>(p);
    emu_ldmatrix(r, &row, true, line);
}

/* Copies read when they are issued, before a pdl_wait that is missing, and arrive at the wait:
 * until then their place holds NaNs, whatever was there. */
void emu_copy_issue(void *to_shared, const uint4 *value, int line);
void emu_copy_owed(const void *to_shared);
void emu_copy_wait(unsigned newest_n, void (*arrive)(void *to, const uint32_t value[4]));

static inline void cp_async16(void *to_shared, const void *from, unsigned bytes,
                              int line = __builtin_LINE())
{
    emu_check_aligned(to_shared, 16, line);
    emu_check_aligned(from, 16, line);
    if (bytes > 16) {
        emu_die("cp_async16 copies 16 bytes at most", line);
    }
    uint4 value = {0, 0, 0, 0};
    if (bytes == 16) {
        value = *static_cast<const uint4 *>(from);
    } else {
        memcpy(&value, from, bytes);
    }
    emu_copy_issue(to_shared, &value, line);
    *static_cast<uint4 *>(to_shared) = {~0u, ~0u, ~0u, ~0u};
    emu_copy_owed(to_shared);
}
void cp_async_commit(void);

static inline void emu_copy_arrive(void *to, const uint32_t value[4])
{
    *static_cast<uint4 *>(to) = {value[0], value[1], value[2], value[3]};
}
template <int N> static inline void cp_async_wait(void)
{
    emu_copy_wait(N, emu_copy_arrive);
}

/* Counted loads. */
static inline void ld_count(ld_class cls, unsigned bytes)
{
    emu_count_bytes(cls, bytes);
}
template <class V> static inline V emu_load(ld_class cls, const void *p, int line)
{
    emu_check_aligned(p, sizeof(V), line);
    emu_count_bytes(cls, sizeof(V));
    return *static_cast<const V *>(p);
}
static inline uint4 ld16(ld_class cls, const void *p, int line = __builtin_LINE())
{
    return emu_load<uint4>(cls, p, line);
}
static inline uint2 ld8(ld_class cls, const void *p, int line = __builtin_LINE())
{
    return emu_load<uint2>(cls, p, line);
}
static inline uint32_t ld4(ld_class cls, const void *p, int line = __builtin_LINE())
{
    return emu_load<uint32_t>(cls, p, line);
}

#endif
